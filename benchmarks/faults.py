"""Kills searches, fills their disks and damages their files; counts what survives.

    KERAS_BACKEND=jax python benchmarks/faults.py --seconds 600
    KERAS_BACKEND=jax python benchmarks/faults.py --damaged --seconds 600

The first command runs every kind of search that can be resumed in processes in which
faults occur: they are killed or interrupted at random instants, or while they write a
file, or their disk becomes full or read-only. They are started again, up to eight
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
import shutil
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "tests"), str(HERE.parent)]

# First, since it sets variables of the environment for JAX.
import conftest  # noqa: E402, I001
import faults  # noqa: E402
import keras  # noqa: E402
import test_damaged_files as damages  # noqa: E402

from tf_tickets import files  # noqa: E402
from tf_tickets.environment import versions  # noqa: E402

# Most faults are kills.
ACTIONS = (*["kill"] * 6, "interrupt", "ENOSPC", "EROFS")


class Figures:
    """The figures of all runs with a seed, kept in a JSON file.

    Args:
        path: The file.
        part: "searches" or "damaged": what this run adds to.
        seed: Seed of all runs.
    """

    def __init__(self, path, part, seed):
        self.path, self.part = path, part
        stored = self._stored()
        if stored.get("seed", seed) != seed:
            raise ValueError(
                f"{path} has the figures of seed {stored['seed']}. Pass --seed "
                f"{stored['seed']}, or another --out."
            )
        self.seed = seed
        self.table = stored.get(part, {})
        self.failures = stored.get("failures", [])

    def _stored(self):
        return json.loads(self.path.read_text()) if self.path.exists() else {}

    def save(self):
        """Writes the figures; those of the other part may have changed since."""
        content = self._stored() | {
            "command": f"python benchmarks/faults.py --seconds N --seed {self.seed}",
            "seed": self.seed,
            "backend": keras.config.backend(),
            "versions": versions(),
            "machine": platform.machine(),
            self.part: self.table,
        }
        if self.part == "searches":
            content["failures"] = self.failures
        with files.replacing(self.path) as draft:
            draft.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def kill(figures, seconds, names):
    """Lets faults occur in all searches in turn, for about so many seconds."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        searches = faults.Searches(folder)
        while time.monotonic() - began < seconds:
            name = min(names, key=lambda n: figures.table.get(n, {}).get("runs", 0))
            row = figures.table.setdefault(
                name, {"runs": 0, "tried": {}, "survived": {}}
            )
            _try(searches, name, row, figures)
            figures.save()
            print(f"{name}: {row['survived']}", flush=True)


def _try(searches, name, row, figures):
    """Runs a search with up to eight faults, and counts them."""
    rng = faults.generator(figures.seed, name, row["runs"])
    drawn = searches.drawn(name, rng, rng.randint(5, 8), ACTIONS)
    _, events, _ = searches.reference(name)
    row["runs"] += 1
    occurred = []
    try:
        searches.survived(name, drawn, occurred)
    except AssertionError as error:
        failure = {"search": name, "run": row["runs"] - 1, "error": str(error)}
        figures.failures.append(failure)
        print(failure, flush=True)
    else:
        _count(row["survived"], occurred, events)
    _count(row["tried"], occurred, events)


def _count(counts, occurred, events):
    counted = collections.Counter(counts)
    counted.update(faults.label(fault, events) for fault in occurred)
    counts.update(sorted(counted.items()))


def damage(figures, seconds):
    """Damages files of all kinds in turn, for about so many seconds."""
    conftest.disable_graph_optimization()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        folder, originals = pathlib.Path(folder), {}
        while time.monotonic() - began < seconds:
            kind, how = min(damages.CASES, key=lambda case: _row(figures, case)["runs"])
            if kind not in originals:
                home = folder / "originals" / kind
                home.mkdir(parents=True)
                originals[kind] = damages.KINDS[kind][0](home)
            row = _row(figures, (kind, how))
            copy = folder / f"{kind} {how.__name__} {row['runs']}"
            # Reading some kinds trains networks.
            tries = damages.TRIES[kind][0]
            seed = [figures.seed, damages.CASES.index((kind, how)), row["runs"]]
            counts = damages.campaign(kind, how, originals[kind], copy, tries, seed)
            shutil.rmtree(copy)
            row["runs"] += 1
            row.update(collections.Counter(row) + counts)
            figures.save()
            print(f"{kind}, {how.__name__}: {row}", flush=True)


def _row(figures, case):
    kind, how = case
    return figures.table.setdefault(kind, {}).setdefault(how.__name__, {"runs": 0})


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--searches", nargs="+", choices=faults.SEARCHES, default=list(faults.SEARCHES)
    )
    parser.add_argument("--damaged", action="store_true")
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args()
    name = f"faults_{keras.config.backend()}.json"
    path = options.out or HERE / "results" / name
    part = "damaged" if options.damaged else "searches"
    figures = Figures(path, part, options.seed)
    if options.damaged:
        damage(figures, options.seconds)
    else:
        kill(figures, options.seconds, options.searches)


if __name__ == "__main__":
    main()
