"""Make pseudo-masks with a trained classifier (the same as `wsss classify predict`)."""

import sys

from wsss.cli import main

if __name__ == "__main__":
    sys.exit(main(["classify", "predict", *sys.argv[1:]]))
