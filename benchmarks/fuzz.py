"""Give every reader thousands of damaged inputs; tell what it raised beside a UserError.

python benchmarks/fuzz.py --out /tmp/fuzz [--inputs 10000] [--seed 0] [--only checkpoints ...]
"""

import argparse
import shutil
import sys
from pathlib import Path

PROJECT = Path(__file__).parent.parent
sys.path.insert(0, str(PROJECT / "tests"))

import fuzzing  # noqa: E402

from wsss.data.synthetic import draw_dataset  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--inputs", type=int, default=10_000, help="of all readers together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[], help="names of readers")
    args = parser.parse_args()
    args.out.mkdir(parents=True)
    drawn, configs = args.out / "drawn", args.out / "configs"
    draw_dataset(drawn, train=24, val=8, size=64)
    shutil.copytree(PROJECT / "configs" / "demo", configs)
    readers = fuzzing.readers(args.out, drawn, configs)
    readers = {name: one for name, one in readers.items() if not args.only or name in args.only}
    bad = 0
    for name, reader in readers.items():
        count = args.inputs // len(readers)
        found = list(fuzzing.faults(reader, args.seed, count))
        bad += len(found)
        print(f"{name:16s} {count:6d} inputs {len(found):6d} faults", flush=True)
        for one in found[:5]:
            print(one, flush=True)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
