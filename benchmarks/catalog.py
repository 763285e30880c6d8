"""Time and memory of reading large data sets: python benchmarks/catalog.py VOC_ROOT

Builds data sets of 1,000 to 100,000 images, which are links to those of VOC_ROOT, in three layouts, and
reads each twice, in a process of its own: the catalog, the shapes of all images, the stamp of a run.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice, pairwise
from multiprocessing import Process
from pathlib import Path

LAYOUTS = ("voc", "folder", "coco")
STEPS = ("catalog", "shapes", "stamp")


def build(layout: str, voc: Path, root: Path, count: int) -> None:
    lists = voc / "ImageSets" / "Segmentation" / "train.txt"
    names = [line.split()[0] for line in lists.read_text().splitlines()]
    pairs = [(f"{number:06d}", name) for number, name in enumerate(islice(cycle(names), count))]
    images = root / {"voc": "JPEGImages", "folder": "photographs", "coco": "train"}[layout]
    images.mkdir(parents=True)
    for new, old in pairs:
        link(voc / "JPEGImages" / f"{old}.jpg", images / f"{new}.jpg")
    if layout == "voc":
        for folder, suffix in (("Annotations", ".xml"), ("SegmentationClass", ".png")):
            (root / folder).mkdir()
            for new, old in pairs:
                link(voc / folder / (old + suffix), root / folder / (new + suffix))
        (root / "ImageSets" / "Segmentation").mkdir(parents=True)
        text = "\n".join(new for new, _ in pairs)
        (root / "ImageSets" / "Segmentation" / "train.txt").write_text(text)
    elif layout == "folder":
        rows = [f"photographs/{new}.jpg,{'cat' if old < '2009' else 'dog'}" for new, old in pairs]
        (root / "tags.csv").write_text("\n".join(["image,tags", *rows]))
    else:
        (root / "annotations").mkdir()
        found = json.dumps(instances([f"{new}.jpg" for new, _ in pairs]))
        (root / "annotations" / "instances_train.json").write_text(found)


def link(old: Path, new: Path) -> None:
    try:
        os.link(old, new)
    except OSError:  # another disk
        new.symlink_to(old)


def instances(names: list[str]) -> dict:
    """As many outlines and points as COCO has: 7 objects an image, 33 points each."""
    draw = random.Random(0)
    outlines = [[round(draw.uniform(0, 375), 2) for _ in range(66)] for _ in range(1000)]
    images = [{"id": n, "file_name": name, "height": 375, "width": 500} for n, name in enumerate(names)]
    categories = [{"id": n, "name": f"class {n}"} for n in range(1, 81)]
    annotations = [
        {
            "segmentation": [outlines[number % 1000]],
            "area": 100.0,
            "iscrowd": 0,
            "image_id": number // 7,
            "bbox": [1.0, 2.0, 3.0, 4.0],
            "category_id": draw.randint(1, 80),
            "id": number,
        }
        for number in range(7 * len(images))
    ]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def read(layout: str, root: str, split: str) -> None:
    """Print the seconds of each step, and the most memory in MB: before it, and in all."""
    from wsss.data.catalog import read_catalog
    from wsss.data.datasets import SameShapeBatches
    from wsss.stages.recipe import stamp_catalog

    peaks = [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024]
    times = [time.perf_counter()]
    catalog = read_catalog(layout, root, split)
    times.append(time.perf_counter())
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
    SameShapeBatches(catalog, lambda height, width: (height, width), 10**6)
    times.append(time.perf_counter())
    stamp_catalog(catalog)
    times.append(time.perf_counter())
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
    print(*(round(end - start, 2) for start, end in pairwise(times)), *peaks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("voc", type=Path, help="VOC development kit whose images are linked")
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--layouts", nargs="+", default=LAYOUTS, choices=LAYOUTS)
    parser.add_argument("--read", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.read:
        return read(*args.read)
    print("layout   images reading   catalog s   shapes s   stamp s   MB before, catalog, all")
    for layout in args.layouts:
        for count in args.images:
            with tempfile.TemporaryDirectory() as place:
                root = Path(place) / "data"
                split = "all" if layout == "folder" else "train"
                # a process is told as large as the one that starts it
                made = Process(target=build, args=(layout, args.voc.absolute(), root, count))
                made.start()
                made.join()
                words = [sys.executable, __file__, str(args.voc), "--read", layout, str(root), split]
                for reading in ("first", "second"):
                    here = {**os.environ, "XDG_CACHE_HOME": f"{place}/cache"}
                    found = subprocess.check_output(words, env=here, text=True).split()
                    seconds, peaks = found[:3], found[3:]
                    told = "".join(f"{value:>11s}" for value in seconds)
                    print(f"{layout:6s} {count:8d} {reading:7s} {told}   {' '.join(peaks)}", flush=True)


if __name__ == "__main__":
    main()
