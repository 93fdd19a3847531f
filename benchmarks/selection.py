"""Times the selection of weights: scores and masks in, masks out.

    KERAS_BACKEND=jax python benchmarks/selection.py --label after

The time of `selection.choose` by global allocation is divided by that of
`np.partition` of all scores at the same place. Both are measured in turns in one
process. The peak of memory allocated within the call is divided by the bytes of the
scores. The masks that are returned count. Other results of the file stay; the label
names the state of the code, "before" or "after" it was rewritten.
"""

import argparse
import json
import pathlib
import platform
import statistics
import sys
import time
import tracemalloc

import numpy as np

from tf_tickets.pruning import selection

HERE = pathlib.Path(__file__).parent
# A network's kernels are of very different sizes.
SHARES = (0.005, 0.02, 0.075, 0.2, 0.7)
CASES = ("dense", "pruned", "tied")


def parse(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--label", required=True, help="which code is measured")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[1_000_000, 10_000_000, 100_000_000]
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument(
        "--out", type=pathlib.Path, default=HERE / "results" / "selection.json"
    )
    return parser.parse_args(argv)


def tables(size, case):
    """Returns scores, masks and the number of weights to keep.

    "dense": all weights are there, half are kept. "pruned": half are there, and a
    quarter is kept. "tied": as "pruned", with scores of 256 values.
    """
    rng = np.random.default_rng(0)
    scores, masks = {}, {}
    for number, share in enumerate(SHARES):
        part = rng.standard_normal(int(share * size), dtype="float32")
        part = np.abs(part)
        if case == "tied":
            part = np.round(part * 64) / 64
        path = f"layer{number}/kernel"
        scores[path] = part
        masks[path] = np.ones(part.size, bool)
        if case != "dense":
            masks[path] = rng.random(part.size, dtype="float32") < 0.5
    alive = sum(int(mask.sum()) for mask in masks.values())
    return scores, masks, alive // 2


def timed(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def peak(function):
    """Returns the bytes that a call allocates at most, and keeps its result."""
    tracemalloc.start()
    try:
        result = function()
        found = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    del result
    return found


def measure(size, case, repeats):
    scores, masks, keep = tables(size, case)
    flat = np.concatenate(list(scores.values()))
    there = int(sum(mask.sum() for mask in masks.values()))
    place = flat.size - keep * flat.size // there

    def choose():
        return selection.choose(scores, masks, keep)

    def partition():
        return np.partition(flat, place)

    if size >= 50_000_000:
        repeats = max(3, repeats // 3)
    timed(choose), timed(partition)
    rows = [(timed(choose), timed(partition)) for _ in range(repeats)]
    ours, theirs = zip(*rows, strict=True)
    ratios = [a / b for a, b in rows]
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return {
        "weights": size,
        "case": case,
        "repeats": repeats,
        "choose_seconds": min(ours),
        "partition_seconds": min(theirs),
        "ratio": {"median": median, "quartiles": [low, high]},
        "smallest_ratio": min(ours) / min(theirs),
        "memory": peak(choose) / flat.nbytes,
    }


def main(argv):
    options = parse(argv)
    rows = []
    for size in options.sizes:
        for case in options.cases:
            rows.append(measure(size, case, options.repeats))
            print(json.dumps(rows[-1]), flush=True)
    content = json.loads(options.out.read_text()) if options.out.exists() else {}
    content["command"] = "python benchmarks/selection.py --label after"
    content["backend"] = "jax"
    content["versions"] = {
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    content.setdefault("states", {})[options.label] = rows
    options.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
