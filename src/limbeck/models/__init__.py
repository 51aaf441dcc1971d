"""Vision-language models: loading, building, composing, adapting; one family a file."""
