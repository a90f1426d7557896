"""Other libraries' checkpoints, imported as encoders."""
