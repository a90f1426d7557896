"""From the user's options and the images to a configuration, and to what trains."""
