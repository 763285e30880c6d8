"""Training speed by settings of the OpenMP runtime: python benchmarks/threads.py

Threads that spin where they wait for one another are fastest on idle cores, and burn the time of the
thread they wait for where another program has taken its core. Prints steps a second, alone and beside
one busy process, processes taking turns, and the ratio to the runtime's own settings alone.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict

from wsss.machine import SPIN

SETTINGS = {
    "the runtime's own": {},
    "spin 100000": {"GOMP_SPINCOUNT": "100000"},
    "spin 10000": {"GOMP_SPINCOUNT": "10000"},
    f"spin {SPIN} (wsss)": {"GOMP_SPINCOUNT": str(SPIN)},
    "spin 1000": {"GOMP_SPINCOUNT": "1000"},
    "passive": {"OMP_WAIT_POLICY": "passive"},
}
BUSY = "while True: pass"


def steps_a_second(kind: str, seconds: float) -> float:
    """Of training steps of the demo's classifier, or of MobileNetV2 at 224 pixels."""
    import torch
    import torch.nn.functional as F

    from wsss.models.fast import kept_memory
    from wsss.tasks.classification import ClassificationTask

    name, count, side = {"demo": ("glnet_nano", 16, 96), "photographs": ("mobilenetv2_100", 8, 224)}[
        kind
    ]
    network = ClassificationTask(["a", "b", "c", "d"], name).model.train()
    images, tags = torch.rand(count, 3, side, side) * 255, torch.ones(count, 4)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6, fused=True)
    with kept_memory():
        for step in range(10**9):
            if step == 3:
                start = time.perf_counter()
            loss = F.binary_cross_entropy_with_logits(network(images).logits, tags)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step > 3 and time.perf_counter() - start > seconds:
                return (step - 2) / (time.perf_counter() - start)
    raise AssertionError


def main() -> None:
    """Take turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--kinds", nargs="+", default=["demo", "photographs"])
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(steps_a_second(args.one, args.seconds))
        return
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    for kind in args.kinds:
        speeds = defaultdict(list)
        for _ in range(args.rounds):
            for name, settings in SETTINGS.items():
                for place in ("alone", "beside one busy process"):
                    busy = subprocess.Popen([sys.executable, "-c", BUSY]) if place != "alone" else None
                    words = [
                        sys.executable,
                        os.path.abspath(__file__),
                        "--one",
                        kind,
                        "--seconds",
                        str(args.seconds),
                    ]
                    out = subprocess.run(words, env=plain | settings, check=True, capture_output=True)
                    speeds[name, place].append(float(out.stdout.split()[-1]))
                    if busy:
                        busy.kill()
        own = statistics.median(speeds["the runtime's own", "alone"])
        for (name, place), values in speeds.items():
            middle = statistics.median(values)
            print(f"{kind}, {name}, {place}: {middle:.2f} steps/s, {middle / own:.2f}", flush=True)


if __name__ == "__main__":
    main()
