"""All pairs of rows, tile by tile."""
