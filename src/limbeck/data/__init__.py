"""From rows of any source to samples with verified pictures, and from samples to tokens.

One way to open an image (`images`), one to read messages (`messages`), one to build tokens
(`tokens`); `sources` holds one file a source, and `prepare` is the stage.
"""
