"""Data: from what the user names to batches of views."""
