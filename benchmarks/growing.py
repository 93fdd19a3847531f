"""Compares LTH (IMP), DLTH, UniLTH and UniDLTH under the same conditions.

    python benchmarks/growing.py --dataset mnist --data-dir DIR --seeds 0 1 2

All searches start from the same initial weights and use ERK allocation, so a kernel has
the same number of weights in every search. The sparsities are about 50, 70, 90, 95 and
98 %. IMP and the Uni searches take 17 rounds and reach these sparsities in rounds 3, 5,
10, 13 and 17. DLTH runs once per sparsity. Every ticket is then trained for the same
number of epochs: "reset" starts from the initial weights, "kept" from the weights at
the end of the search. Accuracy is measured on the test set after the last epoch.

`--sweep` also tries other settings with the first seed: patience, power and length of
the penalty's growth, a lower learning rate during DLTH's penalty phase, and pruning the
smallest weights as in DLTH's published code. Run the same command again to resume an
interrupted run; `--collect` only summarizes finished runs.
"""

import dataclasses
import json
import os
import re

import terms
from spreads import show, spread

ROUNDS = 17
# Rounds 3, 10, 13 and 17 leave 50, 10, 5 and 2 % of the weights.
RATE = 1 - 0.1**0.1
CHOSEN = (3, 5, 10, 13, 17)
STAGE_ONE = 20
METHODS = ("IMP", "DLTH", "UniLTH", "UniDLTH")


def sparsity(round_):
    return 1 - (1 - RATE) ** round_


def searches(options, seed):
    """Returns a dict from label to a search and the rounds of its tickets to train."""
    import tf_tickets as tt

    imp = {"allocation": "erk", "seed": seed}
    found = {
        "IMP": (tt.IMP(ROUNDS, options.epochs, RATE, **imp), CHOSEN),
    }
    for round_ in CHOSEN:
        found[f"DLTH {round_}"] = dlth(options, seed, round_), (1,)
    found["UniLTH"] = uni(tt.UniLTH, options, seed), CHOSEN
    found["UniDLTH"] = uni(tt.UniDLTH, options, seed), CHOSEN
    return {k: s for k, s in found.items() if k.split()[0] in options.methods}


def dlth(options, seed, round_, learning_rate=None, **settings):
    import tf_tickets as tt

    strength = dlth_penalty(options)
    return tt.DLTH(
        sparsity(round_),
        1,
        tt.PenaltyPhase(options.dlth_epochs, strength, learning_rate),
        options.epochs,
        allocation="erk",
        train="none",
        seed=seed,
        **settings,
    )


def dlth_penalty(options):
    from tf_tickets.masks.annealing import GrowingPenalty

    if options.dataset == "mnist":
        return GrowingPenalty(1e-4, interval=1, hold=10_000)
    return None


def uni(kind, options, seed, patience=5, power=2.0, penalty_epochs=None):
    import tf_tickets as tt

    return kind(
        sparsity(ROUNDS),
        ROUNDS,
        tt.StageOne(STAGE_ONE, tt.EarlyStopRewind(patience)),
        tt.PenaltyPhase(
            penalty_epochs or options.penalty_epochs,
            tt.schedules.GrowingPenalty(power=power),
        ),
        options.epochs,
        allocation="erk",
        train="none",
        # Keeps the weights of the search; `Rows.reset` resets them.
        rewind_to=tt.Rewind("init", "learning_rate"),
        seed=seed,
    )


def sweep(options, seed):
    """Returns other settings of UniLTH and DLTH, and IMP that keeps its weights."""
    import tf_tickets as tt

    kept = {"allocation": "erk", "seed": seed}
    kept["rewind_to"] = tt.Rewind("init", "learning_rate")
    unilth = tt.UniLTH, options, seed
    twice = 2 * options.penalty_epochs
    found = {}
    for round_ in CHOSEN[2:]:
        slow = dlth(options, seed, round_, learning_rate=1e-4)
        smallest = dlth(options, seed, round_, criterion="magnitude")
        found[f"DLTH {round_}, slow penalty"] = slow, (1,)
        found[f"DLTH {round_}, smallest"] = smallest, (1,)
    found["IMP, kept"] = tt.IMP(ROUNDS, options.epochs, RATE, **kept), CHOSEN
    found["UniLTH, patience 1"] = uni(*unilth, patience=1), CHOSEN
    found["UniLTH, power 1"] = uni(*unilth, power=1.0), CHOSEN
    found["UniLTH, twice the penalty epochs"] = (
        uni(*unilth, penalty_epochs=twice),
        CHOSEN,
    )
    found["UniLTH, power 3"] = uni(*unilth, power=3.0), CHOSEN
    return found


def run(options, seed, searches):
    from tf_tickets.environment import versions

    setting = terms.Terms(options, seed)
    work = options.work / f"seed{seed}"
    origin = {"seed": seed, "versions": versions(), "cores": os.cpu_count()}
    rows = Rows(work / "rows.json", setting, origin)
    for label, (search, rounds) in searches.items():
        if rows.has(label, rounds):
            continue
        tickets = setting.find(search, work / label.replace(" ", "_"))
        for round_ in rounds:
            rows.add(label, search, tickets[round_ - 1])


class Rows:
    """Results of one seed's trained tickets, saved after each ticket."""

    def __init__(self, path, setting, origin):
        self.path = path
        self.trainer = setting.trainer()
        self.data = setting.data
        self.epochs = setting.options.epochs
        self.origin = origin
        self.rows = json.loads(path.read_text())["rows"] if path.exists() else []

    def has(self, label, rounds):
        found = {row["round"] for row in self.rows if row["label"] == label}
        return set(rounds) <= found

    def add(self, label, search, ticket):
        row = {
            "label": label,
            "round": ticket.provenance["round"],
            "sparsity": ticket.sparsity,
            "search_epochs": search.engine.epochs_before(ticket.provenance["round"]),
            "stage_one": getattr(search, "stage_one", {}),
            "dense": search.dense,
            "residue": ticket.metrics.get("pressed_residue"),
        }
        if label.startswith("IMP"):
            row["trained"] = {"reset" if label == "IMP" else "kept": ticket.metrics}
        else:
            row["removal"] = self.removal(ticket)
            row["trained"] = {"kept": self.trainer.train(ticket, self.epochs)}
            if label.startswith("UniLTH"):
                reset = self.trainer.train(self.reset(ticket), self.epochs)
                row["trained"]["reset"] = reset
        self.rows.append(row)
        self.write()
        print(json.dumps(row)[:400], flush=True)

    def removal(self, ticket):
        """Returns the validation accuracy before and after removing the weights."""
        model = self.trainer.model
        ticket.apply(model)
        after = model.evaluate(
            self.data.x_val,
            self.data.y_val,
            batch_size=512,
            verbose=0,
            return_dict=True,
        )
        return {
            "before": ticket.metrics["pressed_val_accuracy"],
            "after": after["accuracy"],
        }

    def reset(self, ticket):
        import tf_tickets as tt

        # IMP's tickets start from the initial weights.
        first = tt.Ticket.load(self.path.parent / "IMP" / "round_01.ticket")
        return dataclasses.replace(ticket, weights=first.weights)

    def write(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        found = {**self.origin, "rows": self.rows}
        self.path.write_text(json.dumps(found, indent=1))


def collect(options):
    files = [options.work / f"seed{seed}" / "rows.json" for seed in options.seeds]
    runs = [json.loads(file.read_text()) for file in files]
    found = {
        "command": command(options, runs[0]["versions"]["backend"]),
        "machine": f"{runs[0]['cores']} CPU cores",
        "seeds": options.seeds,
        "dense": spread([dense(run) for run in runs]),
        "points": points(runs),
        "runs": runs,
    }
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1))
    shown = [point for point in found["points"] if point["label"].count(",") == 1]
    terms.plot(shown, found, options, "Trained tickets")
    return found


def dense(run):
    [row] = [r for r in run["rows"] if r["label"] == "IMP" and r["round"] == CHOSEN[0]]
    return row["dense"]["test_accuracy"]


def points(runs):
    """Averages over the seeds, per search, kind of training and sparsity."""
    groups = {}
    for run in runs:
        for row in run["rows"]:
            for start, metrics in row["trained"].items():
                label = row["label"].removesuffix(", kept")
                label = re.sub(r"^DLTH \d+", "DLTH", label)
                key = label, start, round(row["sparsity"], 3)
                groups.setdefault(key, []).append((row, metrics["test_accuracy"]))
    return [
        {
            "label": f"{label}, {start}",
            "sparsity": at,
            "search_epochs": spread([row["search_epochs"] for row, _ in found]),
            "accuracy": spread([accuracy for _, accuracy in found]),
        }
        for (label, start, at), found in groups.items()
    ]


def command(options, backend):
    more = [
        f"--penalty-epochs {options.penalty_epochs} --dlth-epochs {options.dlth_epochs}"
    ]
    more += ["--sweep"] if options.sweep else []
    return terms.command(options, "growing", backend, *more)


def table(found):
    labels = list(dict.fromkeys(p["label"] for p in found["points"]))
    sparsities = sorted({p["sparsity"] for p in found["points"]})
    cells = {(p["label"], p["sparsity"]): show(p["accuracy"]) for p in found["points"]}
    lines = [
        "| search | " + " | ".join(f"{s:.1%}" for s in sparsities) + " |",
        "|---|" + "---|" * len(sparsities),
    ]
    for label in labels:
        found_cells = (cells.get((label, s), "") for s in sparsities)
        lines.append(f"| {label} | " + " | ".join(found_cells) + " |")
    return f"dense: {show(found['dense'])}\n" + "\n".join(lines)


def main():
    parser = terms.parser(__doc__)
    parser.add_argument(
        "--penalty-epochs",
        type=int,
        default=4,
        help="penalty epochs of the Uni searches",
    )
    parser.add_argument(
        "--dlth-epochs", type=int, default=22, help="penalty epochs of DLTH"
    )
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--sweep", action="store_true", help="also try other settings")
    options = terms.complete(parser.parse_args(), "growing")
    if not options.collect:
        for seed in options.seeds:
            run(options, seed, searches(options, seed))
        if options.sweep:
            run(options, options.seeds[0], sweep(options, options.seeds[0]))
    if all((options.work / f"seed{s}" / "rows.json").exists() for s in options.seeds):
        print(table(collect(options)))


if __name__ == "__main__":
    main()
