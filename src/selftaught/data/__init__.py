"""Data: from the user's DATA argument to batches of views."""
