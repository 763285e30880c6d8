"""wsss: from photographs with image-level tags to pixel masks and a trained segmenter."""

import os
import warnings

__version__ = "0.1.0"

# albumentations asks its package index for a newer version whenever it is imported
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

# What PIL warns of (damaged EXIF, palettes, from 89 megapixels on, which phones make) is read all the
# same, and what it cannot read it refuses. Here, so that it holds in the processes of loaders and the
# CRF; once, as a filter for one call would be seen by the threads that read other images.
warnings.filterwarnings("ignore", module=r"PIL\.")
