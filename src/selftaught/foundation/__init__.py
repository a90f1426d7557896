"""Building blocks for every other package; nothing here knows about images."""
