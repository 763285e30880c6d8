"""Train the tag classifier (the same as `wsss classify fit`)."""

import sys

from wsss.cli import main

if __name__ == "__main__":
    sys.exit(main(["classify", "fit", *sys.argv[1:]]))
