"""Training: the loop, its batches, checkpoints and stages."""
