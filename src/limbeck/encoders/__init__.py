"""The encoder study: CLIP, BLIP, DINO and BEiT teachers into small students, measured honestly.

    data ──▶ teacher (built and trained, or a folder) ──▶ features, once
         ──▶ student (an arm and a seed) ──▶ scores ──▶ cost ──▶ report

`graph.py` is where to begin: the stages in order. A recipe of its own (`recipe.py`) is read by the
loader of every recipe, and run by the loop and into the store of every run.
"""
