"""Kills searches, fills their disks and damages their files; counts what survives.

    KERAS_BACKEND=jax python benchmarks/faults.py --seconds 600
    KERAS_BACKEND=jax python benchmarks/faults.py --damaged --seconds 600

The first command runs every kind of search that can be resumed in processes in which
faults occur: they are killed or interrupted at random instants, or while they write a
file, or their disk becomes full or read-only. They are started again, up to four
times, until they end. All files must then be equal, byte for byte, to those of a search
without faults.

The second command damages every kind of file that is read. Each must be refused with a
ValueError, or, on the command line, with one line; or nothing may have changed.

Both add to the figures in `--out`, and go on where the last run with this seed ended.
"""

import argparse
import collections
import json
import pathlib
import platform
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "tests"), str(HERE.parent)]

import faults  # noqa: E402
import keras  # noqa: E402

from tf_tickets import files  # noqa: E402
from tf_tickets.environment import versions  # noqa: E402

# Half of the faults are kills.
ACTIONS = ("kill", "kill", "kill", "interrupt", "ENOSPC", "EROFS")


class Figures:
    """The figures of all runs with a seed, kept in a JSON file."""

    def __init__(self, path, seed):
        self.path = path
        self.content = json.loads(path.read_text()) if path.exists() else {}
        if self.content.get("seed", seed) != seed:
            raise ValueError(
                f"{path} has the figures of seed {self.content['seed']}. Pass "
                f"--seed {self.content['seed']}, or another --out."
            )
        self.content |= {
            "seed": seed,
            "backend": keras.config.backend(),
            "versions": versions(),
            "machine": platform.machine(),
        }
        for part in ("searches", "damaged"):
            self.content.setdefault(part, {})
        self.content.setdefault("failures", [])
        self.content["command"] = (
            f"python benchmarks/faults.py --seconds N --seed {seed}"
        )

    def save(self):
        with files.replacing(self.path) as draft:
            draft.write_text(json.dumps(self.content, indent=1) + "\n")


def kill(figures, seconds, names):
    """Lets faults occur in all searches in turn, for about so many seconds."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        searches = faults.Searches(folder)
        while time.monotonic() - began < seconds:
            table = figures.content["searches"]
            name = min(names, key=lambda n: table.get(n, {}).get("runs", 0))
            row = table.setdefault(name, {"runs": 0, "tried": {}, "survived": {}})
            _try(searches, name, row, figures)
            figures.save()
            print(f"{name}: {row['survived']}", flush=True)


def _try(searches, name, row, figures):
    """Runs a search with up to four faults, and counts them."""
    rng = faults.generator(figures.content["seed"], name, row["runs"])
    drawn = searches.drawn(name, rng, rng.randint(1, 4), ACTIONS)
    _, events, _ = searches.reference(name)
    row["runs"] += 1
    occurred = []
    try:
        searches.survived(name, drawn, occurred)
    except AssertionError as error:
        failure = {"search": name, "run": row["runs"] - 1, "error": str(error)}
        figures.content["failures"].append(failure)
        print(failure, flush=True)
    else:
        _count(row["survived"], occurred, events)
    _count(row["tried"], occurred, events)


def _count(counts, occurred, events):
    counted = collections.Counter(counts)
    counted.update(faults.label(fault, events) for fault in occurred)
    counts.update(sorted(counted.items()))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--searches", nargs="+", choices=faults.SEARCHES, default=list(faults.SEARCHES)
    )
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args()
    name = f"faults_{keras.config.backend()}.json"
    figures = Figures(options.out or HERE / "results" / name, options.seed)
    kill(figures, options.seconds, options.searches)


if __name__ == "__main__":
    main()
