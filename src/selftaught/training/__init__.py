"""Training: the loop, and what makes a run survive."""
