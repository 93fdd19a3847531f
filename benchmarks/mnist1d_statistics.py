"""Means, intervals and paired tests of the runs on MNIST-1D, and their pictures.

`mnist1d_tickets.py --collect` writes them to `summary.json`. The hypotheses are the
claims of the papers that the methods are from, each a difference between two methods
with the same seeds, averaged over sparsities. Each is tested against the difference
that is claimed, from either side. The p values of a side are corrected by Holm's method
over all claims that could be tested, and those at single sparsities over all claims and
sparsities.
"""

import collections
import copy
import datetime
import json
import math
import os

import numpy as np
from mnist1d_tickets import (
    ASIDE,
    CHOSEN,
    EPOCHS,
    LEVELS,
    METHODS,
    NOT_SWEPT,
    REPORTED,
    SELECTING,
    TEACHERS,
    TRIED,
    chosen,
    file_of,
)
from scipy import stats

# How far the kept fraction may be from that of a level to count as there.
NEAR = 0.02
LEVEL_OF = dict(zip(CHOSEN, LEVELS, strict=True))
# The levels over which a claim is averaged: 80, 90, 95, 96.8 and 98 %.
CLAIMED = LEVELS[2:]
SIGNIFICANT = 0.05
# The number of seeds without which no claim is decided.
FEWEST = 3
# What tickets are found on for their spatial bias.
ORDERS = ("signals", "shuffled")


def at_level(points, level, metric="test_accuracy"):
    """Returns a metric at a sparsity: of the point there, or between its neighbours.

    Between two points it is linear in the logarithm of the kept fraction. Of several
    points there, the best in validation counts. Where points differ in an initial
    score or a penalty, each round has its own line, and the best line in validation
    counts. None out of range.

    >>> rows = [{"sparsity": 0.5, "val_accuracy": 0.6, "test_accuracy": 0.6},
    ...         {"sparsity": 0.875, "val_accuracy": 0.4, "test_accuracy": 0.4}]
    >>> round(at_level(rows, 0.75), 3)
    0.5
    """
    if level == 0.0:
        return points[0][metric]
    lines = _lines(points)
    found = [_on_line(line, level, ("val_accuracy", metric)) for line in lines.values()]
    found = [values for values in found if values]
    return max(found, key=lambda values: values[0])[1] if found else None


def spent_at(points, level):
    """Returns the epochs that a ticket at a sparsity took; None out of range.

    Between two searches with different scores or penalties, they are those of both.

    >>> rows = [{"sparsity": s, "epochs": 60, "val_accuracy": 0.5, "round": 2,
    ...          "initial_score": score} for s, score in ((0.5, 0.1), (0.9, -0.1))]
    >>> spent_at(rows, 0.9), spent_at(rows, 0.8)
    (60, 120)
    """
    lines = _lines(points)
    found = []
    for line in lines.values():
        values = _on_line(line, level, ("val_accuracy",))
        if values:
            found.append((values[0], _spent_on_line(line, level)))
    return max(found)[1] if found else None


def _spent_on_line(points, level):
    there = _there(points, level)
    if there:
        return max(there, key=lambda p: p["val_accuracy"])["epochs"]
    low, high = _around(points, level)
    if _varied(low) != _varied(high):
        return low["epochs"] + high["epochs"]
    return max(low["epochs"], high["epochs"])


def _varied(row):
    """Returns the number by which a point's search differs from others; or None."""
    return row.get("initial_score", row.get("penalty"))


def _lines(points):
    """Returns the points, by round if they come from several searches."""
    lines = collections.defaultdict(list)
    for row in points:
        lines[None if _varied(row) is None else row.get("round")].append(row)
    return lines


def _there(points, level):
    near = NEAR * (1 - level)
    return [p for p in points if abs(p["sparsity"] - level) <= near]


def _around(points, level):
    """Returns the nearest points on both sides of a sparsity; None without one."""
    rows = sorted((p for p in points if p["sparsity"] < 1), key=_sparsity)
    left = [p for p in rows if p["sparsity"] < level]
    right = [p for p in rows if p["sparsity"] > level]
    return (left[-1], right[0]) if left and right else None


def _on_line(points, level, metrics):
    there = _there(points, level)
    if there:
        best = max(there, key=lambda p: p["val_accuracy"])
        return [best[metric] for metric in metrics]
    around = _around(points, level)
    if around is None:
        return None
    low, high = around
    places = [-math.log(1 - p["sparsity"]) for p in (low, high)]
    share = (-math.log(1 - level) - places[0]) / (places[1] - places[0])
    return [float((1 - share) * low[m] + share * high[m]) for m in metrics]


def _sparsity(row):
    return row["sparsity"]


class Runs:
    """All finished runs of a folder, by method, setting and seed."""

    def __init__(self, out):
        self.out = out
        self.found = collections.defaultdict(dict)
        for file in sorted(out.glob("*-*.json")):
            run = json.loads(file.read_text("utf-8"))
            self.found[run["method"], run["setting"]][run["seed"]] = run

    def chosen(self, method):
        """Returns the setting that validation chose, if it ran as often as the default.

        Until then, it is the default one.
        """
        default = next(iter(METHODS[method][1]))
        best = chosen(method, self.out) or default
        runs = [len(self.found.get((method, name), ())) for name in (best, default)]
        return best if runs[0] >= runs[1] else default

    def settings(self, method):
        """Returns the settings of a method that ran as often as the chosen one."""
        count = len(self.found.get((method, self.chosen(method)), ()))
        return [
            setting
            for (other, setting), runs in self.found.items()
            if other == method and len(runs) >= count
        ]

    def full_name(self, name):
        """Returns "METHOD SETTING", also for a method with its chosen setting."""
        method, _, setting = name.partition(" ")
        return f"{method} {setting or self.chosen(method)}"

    def of(self, name, most_epochs=None):
        """Returns a dict from seed to the points of a method.

        Args:
            name: "METHOD", with its chosen setting, or "METHOD SETTING".
            most_epochs: Points that cost more are left out.
        """
        method, _, setting = name.partition(" ")
        runs = self.found.get((method, setting or self.chosen(method)), {})
        return {
            seed: [
                p
                for p in run["points"]
                if not most_epochs or p["epochs"] <= most_epochs
            ]
            for seed, run in runs.items()
        }

    def values(self, name, level, most_epochs=None, metric="test_accuracy"):
        """Returns a dict from seed to a metric at a level."""
        points = self.of(name, most_epochs)
        found = {s: at_level(rows, level, metric) for s, rows in points.items() if rows}
        return {seed: value for seed, value in found.items() if value is not None}


def mean_of(values):
    """Returns the mean in percent with its interval by Student's t."""
    from tf_tickets.reports.statistics import Mean

    mean = Mean.of([100 * value for value in values])
    interval = mean.interval()
    return {
        "mean": round(mean.mean, 3),
        "deviation": None if mean.deviation is None else round(mean.deviation, 3),
        "interval": None if interval is None else [round(end, 3) for end in interval],
        "seeds": mean.count,
    }


def paired(first, second, at_least=None):
    """Tests the differences of two dicts from seed to accuracy, in points.

    The effect is Hedges' g: the mean difference in standard deviations of the
    differences, times a factor that corrects its bias with few seeds.

    Args:
        first: A dict from seed to accuracy.
        second: The other one.
        at_least: If given, "above" is the p value of the difference being larger than
            this many points, and "below" that of its being smaller.
    """
    seeds = sorted(first.keys() & second.keys())
    differences = [first[seed] - second[seed] for seed in seeds]
    if not differences:
        return None
    found = mean_of(differences)
    found |= {"effect": None, "t": None, "wilcoxon": None}
    if len(seeds) > 2 and any(differences) and found["deviation"]:
        correction = 1 - 3 / (4 * (len(seeds) - 1) - 1)
        found["effect"] = round(correction * found["mean"] / found["deviation"], 2)
        found["t"] = float(stats.ttest_1samp(differences, 0.0).pvalue)
        found["wilcoxon"] = float(stats.wilcoxon(differences).pvalue)
        if at_least is not None:
            for name, side in (("above", "greater"), ("below", "less")):
                test = stats.ttest_1samp(differences, at_least / 100, alternative=side)
                found[name] = float(test.pvalue)
    return found


def holm(values):
    """Returns p values corrected by Holm's method; None stays None.

    >>> holm([0.01, None, 0.04, 0.03])
    [0.03, None, 0.06, 0.06]
    """
    known = sorted((p, index) for index, p in enumerate(values) if p is not None)
    corrected, highest = [None] * len(values), 0.0
    for rank, (p, index) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        corrected[index] = highest
    return corrected


# The claims: what is compared, and what the paper says.


class Claim:
    """The difference between two methods that a paper states.

    Args:
        name: Its key, by which another benchmark adds its own evidence.
        first: The method that should be better.
        second: The other method.
        levels: The sparsities over which the difference is averaged.
        share: If given, the first method may spend this fraction of the epochs of the
            second.
        at_least: The difference that is claimed, in points. A negative one means as
            good as the second method, within as many points.
        dense: Whether the second "method" is the dense network.
        also: Other settings of the first method, beside which the claim is tested if
            `first` names one. A method without a setting has the chosen one, and is
            tested with all its settings.
    """

    def __init__(
        self,
        name,
        first,
        second,
        levels=CLAIMED,
        share=None,
        at_least=0.0,
        dense=False,
        also=(),
    ):
        self.name = name
        self.first, self.second = first, second
        self.levels = levels
        self.share = share
        self.at_least = at_least
        self.dense = dense
        self.also = also

    def variants(self, runs):
        """Returns the same claim about other settings of either method."""
        found = []
        for side in ("first", "second"):
            name = getattr(self, side)
            others = self.also if side == "first" else ()
            if " " not in name:
                others = [
                    f"{name} {setting}"
                    for setting in runs.settings(name)
                    if setting not in (runs.chosen(name), *ASIDE)
                ]
            for other in others:
                variant = copy.copy(self)
                setattr(variant, side, other)
                found.append(variant)
        return found

    def test(self, runs):
        """Returns the differences at each level and on average; None without runs."""
        by_level, sums = [], collections.defaultdict(list)
        for level in self.levels:
            second = runs.values(self.second, 0.0 if self.dense else level)
            most = None
            if self.share:
                costs = [
                    at_level(rows, level, "epochs")
                    for rows in runs.of(self.second).values()
                ]
                most = self.share * max((c for c in costs if c), default=0) or None
            first = runs.values(self.first, level, most)
            for seed in first.keys() & second.keys():
                sums[seed].append(first[seed] - second[seed])
            found = paired(first, second, self.at_least)
            if found:
                by_level.append({"level": level, "most_epochs": most, **found})
        # A seed without one of the levels would shift the mean.
        whole = len(by_level)
        means = {s: float(np.mean(v)) for s, v in sums.items() if len(v) == whole}
        # At these sparsities there are runs of both methods; others are missing.
        there = [row["level"] for row in by_level]
        partial = there if whole < len(self.levels) else None
        return self.row(runs, means, by_level, partial=partial)

    def row(self, runs, means, by_level, **more):
        """Returns the test of mean differences by seed; None without any."""
        overall = paired(means, dict.fromkeys(means, 0.0), self.at_least)
        if overall is None:
            return None
        return {
            "claim": self.name,
            "first": runs.full_name(self.first),
            "second": runs.full_name(self.second),
            "share": self.share,
            "at_least": self.at_least,
            **more,
            **overall,
            "levels": by_level,
        }

    def verdict(self, row):
        """Returns the verdict, and the levels with one of their own.

        These are those at which the claim is seen, and those where it is contradicted.

        With fewer than `FEWEST` seeds, or without some of the sparsities, nothing is
        decided.

        A claim is seen if the corrected test finds a difference larger than what is
        claimed, and contradicted if it finds a smaller one.
        """
        if row["seeds"] < FEWEST:
            return "too few seeds", [], []
        if row.get("partial"):
            return "too few sparsities", [], []
        some, against = (
            [each["level"] for each in row["levels"] if _found(each[name])]
            for name in ("holm", "holm_below")
        )
        if _found(row["holm"]):
            verdict = "seen"
        elif some:
            verdict = "seen under conditions"
        else:
            verdict = "contradicted" if _found(row["holm_below"]) else "not seen"
        return verdict, some, against


def _found(p):
    return p is not None and p < SIGNIFICANT


CLAIMS = (
    Claim("tickets-beat-random", "IMP", "random"),
    Claim("tickets-beat-shuffled", "IMP init", "controls shuffled-masks"),
    # The paper's tickets are from half to a fifth of their networks.
    Claim("tickets-beat-dense", "IMP", "dense rate=0.005", LEVELS[:3], dense=True),
    Claim(
        "tickets-as-good-as-dense",
        "IMP",
        "dense rate=0.005",
        LEVELS[:3],
        at_least=-1.0,
        dense=True,
    ),
    Claim("rewinding", "IMP 1-epoch", "IMP init"),
    Claim("small-weights-matter", "IMP init", "inverted"),
    Claim("cs-above-imp", "ContinuousSparsification", "IMP"),
    Claim("cs-at-a-fifth", "ContinuousSparsification", "IMP", LEVELS[3:], 0.2),
    Claim(
        "cs-as-good-at-a-fifth",
        "ContinuousSparsification",
        "IMP",
        LEVELS[3:],
        0.2,
        -1.0,
    ),
    Claim("cs-above-iss", "ContinuousSparsification", "StochasticSparsification"),
    Claim("unilth-above-lth", "UniLTH", "IMP"),
    Claim("unilth-above-dlth", "UniLTH", "DLTH"),
    Claim("unidlth-above-lth", "UniDLTH", "IMP"),
    Claim("unidlth-above-dlth", "UniDLTH", "DLTH"),
    Claim("dlth-as-good-as-lth", "DLTH", "IMP", at_least=-1.0),
    Claim(
        "kdlts-as-good-as-imp",
        "KDLTS teachers",
        "IMP",
        at_least=-1.0,
        also=["KDLTS labels"],
    ),
    Claim("kdlts-above-init", "KDLTS teachers", "SNIP", also=["KDLTS labels"]),
    Claim("kdlts-above-synflow", "KDLTS teachers", "SynFlow", also=["KDLTS labels"]),
    Claim("kdlts-teachers", "KDLTS teachers", "KDLTS labels"),
    Claim("kdlts-early", "KDLTS 1-epoch", "IMP 1-epoch", at_least=1.5),
    Claim("early-above-init", "KDLTS 1-epoch", "KDLTS teachers", at_least=1.5),
    Claim("early-stop", "EarlyStopRewind", "IMP init"),
)


def tested(runs, claims=None):
    """Returns the claims for which there are runs, with verdicts.

    "others" of a claim are the same with other settings of its methods, each tested
    as if it stood in the claim's place.
    """
    found = [(claim, claim.test(runs)) for claim in claims or CLAIMS]
    found = [(claim, row) for claim, row in found if row]
    rows = [row for _, row in found]
    _correct(rows)
    beside = copy.deepcopy(rows)
    for index, (claim, row) in enumerate(found):
        row["verdict"], row["where"], row["against"] = claim.verdict(row)
        row["others"] = []
        for variant in claim.variants(runs):
            other = variant.test(runs)
            if other:
                _correct([*beside[:index], other, *beside[index + 1 :]])
                verdict = variant.verdict(other)
                other["verdict"], other["where"], other["against"] = verdict
                row["others"].append(other)
    return rows


def _correct(rows):
    """Adds p values corrected over all claims, and over all claims and levels."""
    by_level = [each for row in rows for each in row["levels"]]
    for family in (rows, by_level):
        for test, name in (("above", "holm"), ("below", "holm_below")):
            corrected = holm([row.get(test) for row in family])
            for row, p in zip(family, corrected, strict=True):
                row[name] = p


COMPARED = (
    "IMP init",
    "KDLTS teachers",
    "ContinuousSparsification",
    "UniLTH",
    "DLTH",
)
# Methods whose search trains its tickets, and those that find several in one search.
TRAINED_BY_SEARCH = ("IMP", "inverted")
ONE_SEARCH = ("UniLTH", "UniDLTH", "StochasticSparsification", "EarlyStopRewind")


def costs(runs):
    """Returns how many times fewer epochs than IMP methods take, and all their epochs.

    Ratios are those of means over seeds. "whole" are the epochs of all points.
    """
    found = {}
    imp = runs.of("IMP init")
    for name in COMPARED:
        by_seed = runs.of(name)
        ratios = {}
        for level in LEVELS:
            one, other = (_mean_spent(rows, level) for rows in (by_seed, imp))
            if one and other:
                ratios[str(level)] = round(other / one, 2)
        method = name.split()[0]
        totals = [whole(method, rows) for rows in by_seed.values()]
        if ratios:
            found[name] = {"ratios": ratios, "whole": round(float(np.mean(totals)))}
    return found


def _mean_spent(by_seed, level):
    spent = [spent_at(rows, level) for rows in by_seed.values()]
    spent = [epochs for epochs in spent if epochs is not None]
    return float(np.mean(spent)) if spent else None


def whole(method, points, final=EPOCHS):
    """Returns the epochs of all trainings that led to the points of a run.

    >>> rows = [{"epochs": 40, "initial_score": 0.1}, {"epochs": 60,
    ...          "initial_score": 0.1}, {"epochs": 60, "initial_score": 0.0}]
    >>> whole("ContinuousSparsification", rows)
    140
    """
    costs_ = [row["epochs"] for row in points]
    if method in TRAINED_BY_SEARCH:
        return max(costs_)
    if method == "KDLTS":
        # All levels share the teachers.
        return sum(costs_) - (len(costs_) - 1) * sum(TEACHERS)
    searches = collections.defaultdict(list)
    for index, row in enumerate(points):
        alone = None if method in ONE_SEARCH else index
        searches[alone if _varied(row) is None else _varied(row)].append(row["epochs"])
    return sum(max(rows) + final * (len(rows) - 1) for rows in searches.values())


# The spatial bias.


def adjacency(runs, order):
    """Returns the mean ratio of adjacent pairs to chance, by round."""
    rows = []
    by_seed = runs.of(f"spatial {order}")
    for index, round_ in enumerate(_rounds(by_seed)):
        points = [points[index] for points in by_seed.values()]
        row = {"round": round_, "sparsity": points[0]["sparsity"], "seeds": len(points)}
        for view in ("in_time", "as_given"):
            pairs = [p[view]["pairs"] for p in points]
            ratios = [p["found"] / p["by_chance"] for p in pairs if p["by_chance"]]
            z = [p["z"] for p in pairs]
            residual_z = [p[view]["residual"]["z"] for p in points]
            row[view] = {
                "ratio": mean_of([ratio / 100 for ratio in ratios]),
                "z": round(float(np.mean(z)), 2),
                "significant": sum(p["p"] < SIGNIFICANT for p in pairs),
                "p": _over_seeds(z),
                "residual_z": round(float(np.mean(residual_z)), 2),
                "residual_p": _over_seeds(residual_z),
            }
        rows.append(row)
    return rows


def _over_seeds(values):
    """Returns the p value of a mean of 0 by the t test; None with few seeds.

    All seeds have the same signals, so their own permutation tests are not independent
    evidence, and p values of these are not combined.
    """
    if len(values) < FEWEST:
        return None
    return float(stats.ttest_1samp(values, 0.0).pvalue)


def _rounds(by_seed):
    lengths = {tuple(p["round"] for p in points) for points in by_seed.values()}
    return min(lengths, key=len, default=())


def transfers(runs, order):
    """Returns how tickets and controls do on changed signals, and tests the tickets."""
    gathered = collections.defaultdict(lambda: collections.defaultdict(dict))
    for seed, points in runs.of(f"spatial {order}").items():
        for row in points:
            for signals, trained in row.get("trained_on", {}).items():
                for kind, metrics in trained.items():
                    accuracy = metrics["test_accuracy"]
                    gathered[row["round"], signals][kind][seed] = accuracy
    rows = []
    for (round_, signals), kinds in gathered.items():
        rows.append(
            {
                "order": order,
                "round": round_,
                "sparsity": 1 - (0.1**0.1) ** round_,
                "signals": signals,
                **{kind: mean_of(values.values()) for kind, values in kinds.items()},
                "over_shuffled_masks": paired(kinds["ticket"], kinds["shuffled_masks"]),
                "reinit_over_shuffled_masks": paired(
                    kinds["reinit"], kinds["shuffled_masks"]
                ),
                "over_dense": paired(kinds["ticket"], kinds["dense"]),
            }
        )
    family = ("over_shuffled_masks", "reinit_over_shuffled_masks", "over_dense")
    for name in family:
        for row, p in zip(rows, holm([r[name]["t"] for r in rows]), strict=True):
            row[name]["holm"] = p
    return rows


def lost(runs):
    """Tests how much of a ticket's advantage changed signals take away.

    The advantage is that over shuffled masks, trained on the same signals.
    """
    advantage = collections.defaultdict(dict)
    for seed, points in runs.of("spatial signals").items():
        for row in points:
            for signals, trained in row.get("trained_on", {}).items():
                pair = (trained[kind] for kind in ("ticket", "shuffled_masks"))
                first, second = (metrics["test_accuracy"] for metrics in pair)
                advantage[row["round"], signals][seed] = first - second
    return [
        {
            "round": round_,
            "signals": signals,
            **(paired(advantage[round_, "new"], values) or {}),
        }
        for (round_, signals), values in advantage.items()
        if signals != "new"
    ]


# The whole.


def frontier(runs):
    """Returns the mean accuracy of each method and setting at each level."""
    rows = []
    for method in METHODS:
        if method in ("dense", "spatial", "supermask"):
            continue
        for setting in dict.fromkeys([*REPORTED.get(method, ()), runs.chosen(method)]):
            name = f"{method} {setting}"
            by_seed = runs.of(name)
            levels = {}
            for level in LEVELS:
                values = runs.values(name, level)
                # A mean of only the seeds that got there would be of other seeds.
                if values and len(values) >= 0.8 * len(by_seed):
                    levels[str(level)] = {
                        **mean_of(values.values()),
                        "epochs": round(_mean_spent(by_seed, level), 1),
                        "values": values,
                        "validation": runs.values(name, level, None, "val_accuracy"),
                    }
            if levels:
                rows.append({"method": method, "setting": setting, "levels": levels})
    return rows


def tried(runs):
    """Returns the validation accuracy of the settings that were tried."""
    rows = []
    for method, (_, settings) in METHODS.items():
        if method in NOT_SWEPT:
            continue
        levels = (0.0,) if method == "dense" else [LEVEL_OF[r] for r in SELECTING]
        for setting in settings:
            files = [file_of(method, setting, seed, runs.out) for seed in TRIED]
            files = [file for file in files if file.exists()]
            if not files or len(settings) == 1:
                continue
            points = [json.loads(file.read_text("utf-8"))["points"] for file in files]
            values = {}
            for level in levels:
                found = [at_level(rows_, level, "val_accuracy") for rows_ in points]
                known = None not in found
                values[str(level)] = 100 * float(np.mean(found)) if known else None
            rows.append(
                {
                    "method": method,
                    "setting": setting,
                    "seeds": len(files),
                    "validation": values,
                    "chosen": chosen(method, runs.out) == setting,
                }
            )
    return rows


def swept(method, out):
    settings = METHODS[method][1]
    if method in NOT_SWEPT or len(settings) == 1:
        return None
    return chosen(method, out) is not None


def supermasks(runs):
    rows = []
    for setting in REPORTED["supermask"]:
        by_seed = runs.of(f"supermask {setting}")
        for index in range(max(map(len, by_seed.values()), default=0)):
            points = [points[index] for points in by_seed.values()]
            rows.append(
                {
                    "mask": setting,
                    "initial_score": points[0]["initial_score"],
                    "epochs": points[0]["epochs"],
                    "sparsity": mean_of([p["sparsity"] for p in points]),
                    "accuracy": mean_of([p["test_accuracy"] for p in points]),
                }
            )
    return rows


def collect(out):
    """Writes `summary.json` and the pictures into the folder of the runs."""
    from mnist1d_pictures import draw

    runs = Runs(out)
    dense = runs.of("dense rate=0.005")
    all_runs = [run for by_seed in runs.found.values() for run in by_seed.values()]
    content = {
        "command": "KERAS_BACKEND=jax python benchmarks/mnist1d_tickets.py",
        "machine": {"cores": os.cpu_count(), "threads": 1},
        "versions": all_runs[0]["versions"],
        "date": datetime.date.today().isoformat(),
        "seeds": sorted({run["seed"] for run in all_runs}),
        "runs": len(all_runs),
        "cpu_hours": round(sum(run["seconds"]["cpu"] for run in all_runs) / 3600, 2),
        "epochs": EPOCHS,
        "rounds": CHOSEN,
        "levels": LEVELS,
        "chosen": {method: runs.chosen(method) for method in METHODS},
        "aside": ASIDE,
        # Whether all settings of a method were tried; None if there is nothing to try.
        "swept": {method: swept(method, out) for method in METHODS},
        "dense": {
            **mean_of([points[0]["test_accuracy"] for points in dense.values()]),
            "values": {s: points[0]["test_accuracy"] for s, points in dense.items()},
        },
        "frontier": frontier(runs),
        "tried": tried(runs),
        "claims": tested(runs),
        "costs": costs(runs),
        "supermasks": supermasks(runs),
        "adjacency": {
            order: adjacency(runs, order) for order in ("signals", "shuffled")
        },
        "transfers": [*transfers(runs, "signals"), *transfers(runs, "shuffled")],
        "lost": lost(runs),
    }
    (out / "summary.json").write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    draw(content, out)
    for row in content["claims"]:
        print(row["claim"], row["mean"], row["interval"], row["holm"], row["verdict"])
