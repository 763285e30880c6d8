"""wsss: from photographs with image-level tags to pixel masks and a trained segmenter."""

import os

__version__ = "0.1.0"

# albumentations asks its package index for a newer version whenever it is imported
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
