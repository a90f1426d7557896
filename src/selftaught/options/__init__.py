"""What each command accepts, with its help text."""
