"""selftaught: from a folder of unlabelled images to an encoder, and whether it worked."""

__version__ = "0.1.0"
