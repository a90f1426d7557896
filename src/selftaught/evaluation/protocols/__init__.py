"""One file per protocol, and their registry."""
