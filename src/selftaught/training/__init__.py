"""Training: the loop, checkpoints and logs of a run."""
