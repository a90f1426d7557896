"""One file per command: from its options to what it writes and prints."""
