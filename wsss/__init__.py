"""wsss: from photographs with image-level tags to pixel masks and a trained segmenter."""

__version__ = "0.1.0"
