"""What ResNet-8 on CIFAR-10 says of the claims of the papers.

    KERAS_BACKEND=jax python benchmarks/cifar10_claims.py

Reads the files that `benchmarks/cifar10.py` has written, and writes `summary.json`
beside them. The claims are those of `mnist1d_statistics.py` that these runs can answer,
averaged over 80, 90 and 95 %, beside the dense network over 50 and 80 %, and tested in
the same way. Of methods that do not reach a sparsity exactly, it is between their two
nearest tickets. Continuous sparsification has sparsities of its own: each of its
tickets is compared with IMP there, between IMP's nearest tickets. Of its scores only
those are compared that are complete with the most seeds, and with the same ones: seeds
with other scores would differ by more than the seed. With fewer than three seeds
nothing is decided.
"""

import argparse
import collections
import datetime
import json
import pathlib

import numpy as np
from mnist1d_statistics import Claim, Runs, at_level, tested

HERE = pathlib.Path(__file__).parent
LEVELS = (0.8, 0.9, 0.95)
# Tickets of a fifth to a half of the weights.
LARGE = (0.5, 0.8)
IMP, DENSE, KDLTS = "IMP init", "dense recipe", "KDLTS 3-teachers"


class AtItsOwnSparsities(Claim):
    """The difference between two methods at the sparsities of the first one's tickets.

    It is averaged over the tickets of each seed. Those that keep more or fewer weights
    than all tickets of the second method are left out.
    """

    def test(self, runs):
        others = runs.of(self.second)
        means, sparsities = {}, []
        for seed, points in runs.of(self.first).items():
            found = [
                (point["sparsity"], point["test_accuracy"] - other)
                for point in points
                if (other := at_level(others.get(seed, ()), point["sparsity"]))
                is not None
            ]
            if found:
                means[seed] = float(np.mean([difference for _, difference in found]))
                sparsities += [round(sparsity, 4) for sparsity, _ in found]
        return self.row(runs, means, [], sparsities=sorted(sparsities))


def claims():
    cs = "ContinuousSparsification"
    return (
        Claim("tickets-beat-random", IMP, "random erk", LEVELS),
        Claim("tickets-as-good-as-dense", IMP, DENSE, LARGE, at_least=-1.0, dense=True),
        Claim("tickets-beat-dense", IMP, DENSE, LARGE, dense=True),
        Claim("small-weights-matter", IMP, "inverted init", LEVELS),
        Claim("rewinding", "IMP late", IMP, LEVELS),
        AtItsOwnSparsities("cs-above-imp", cs, IMP),
        Claim("unilth-above-lth", "UniLTH", IMP, LEVELS),
        Claim("unilth-above-dlth", "UniLTH", "DLTH", LEVELS),
        Claim("unidlth-above-lth", "UniDLTH", IMP, LEVELS),
        Claim("unidlth-above-dlth", "UniDLTH", "DLTH", LEVELS),
        Claim("dlth-as-good-as-lth", "DLTH", IMP, LEVELS, at_least=-1.0),
        Claim("kdlts-as-good-as-imp", KDLTS, IMP, LEVELS, at_least=-1.0),
        Claim("kdlts-above-init", KDLTS, "SNIP", LEVELS),
        Claim("kdlts-above-synflow", KDLTS, "SynFlow", LEVELS),
    )


class CifarRuns(Runs):
    """The runs of a folder; "METHOD" means its settings that have the most seeds."""

    def settings(self, method):
        return []

    def full_name(self, name):
        """Returns "METHOD SETTING" if only one setting of a method is compared."""
        compared = self.compared(name)
        return " ".join(next(iter(compared))) if len(compared) == 1 else name

    def compared(self, name):
        """Returns the runs of a method by method and setting, then by seed."""
        method, _, setting = name.partition(" ")
        if setting:
            return {(method, setting): self.found.get((method, setting), {})}
        whole = {
            key: {seed: run for seed, run in by_seed.items() if run["complete"]}
            for key, by_seed in self.found.items()
            if key[0] == method
        }
        most = max(whole.values(), key=_most_seeds, default={}).keys()
        return {key: runs for key, runs in whole.items() if runs.keys() == most}

    def of(self, name, most_epochs=None):
        points = collections.defaultdict(list)
        for by_seed in self.compared(name).values():
            for seed, run in by_seed.items():
                points[seed] += run["points"]
        return points


def _most_seeds(by_seed):
    """Returns a key that is largest for the most seeds, and then for the lowest."""
    return len(by_seed), sorted(-seed for seed in by_seed)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    results = HERE / "results" / "cifar10"
    parser.add_argument("--results", type=pathlib.Path, default=results)
    folder = parser.parse_args().results
    content = {
        "command": "KERAS_BACKEND=jax python benchmarks/cifar10_claims.py",
        "date": datetime.date.today().isoformat(),
        "levels": LEVELS,
        "claims": tested(CifarRuns(folder), claims()),
    }
    (folder / "summary.json").write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    for row in content["claims"]:
        print(row["claim"], row["mean"], row["interval"], row["verdict"])


if __name__ == "__main__":
    main()
