"""Views: what is done (policy), which numbers (sample), and how pixels change (tensors)."""
