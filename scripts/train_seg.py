"""Train the segmentation network (the same as `wsss segment fit`)."""

import sys

from wsss.cli import main

if __name__ == "__main__":
    sys.exit(main(["segment", "fit", *sys.argv[1:]]))
