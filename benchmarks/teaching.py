"""Compares KDLTS, pruning at initialization and IMP; distills IMP tickets.

    python benchmarks/teaching.py --dataset mnist --data-dir DIR --seeds 0 1 2

All tickets start from the same initial weights and are trained for the same number of
epochs; IMP rewinds to initialization. `search_epochs` counts the epochs of the search
and its teachers, and for IMP the epochs before the ticket is known. Accuracy is
measured on the test set after the last epoch. Run the same command again to resume an
interrupted run.

--ablation  also runs KDLTS with fewer kinds of distillation, with one teacher, without
            teachers, with other constraints, and with frozen weights
--teach     also trains the tickets of IMP with the dense network as their teacher
--early     also rewinds KDLTS and IMP to a later step instead of initialization
"""

import json
import os

import terms
from spreads import show, spread

import tf_tickets as tt
from tf_tickets import distillation as dl
from tf_tickets.environment import versions
from tf_tickets.pruning import saliency
from tf_tickets.wrapping import compiling

SPARSITIES = (0.8, 0.9, 0.95, 0.98)
ROUNDS = 17
RATE = 1 - 0.1**0.1
# Rounds of IMP that leave 20, 10, 5 and 2 % of the weights.
CHOSEN = (7, 10, 13, 17)


def kdlts(options, seed, sparsity, teachers, **settings):
    given = {"final_sparsity": sparsity, "epochs": options.search_epochs, "seed": seed}
    given |= {"score_optimizer": options.score_optimizer, **settings}
    return tt.KDLTS(**given).taught_by(*teachers)


def at_init(setting, seed, sparsity):
    """Yields labels and searches that prune before training."""
    x, y = setting.data.balanced(100, seed)
    criteria = {
        "SNIP": saliency.SNIP(x, y),
        "GraSP": saliency.GraSP(x, y, batch_size=1000),
        "SynFlow": "synflow",
        "magnitude at init": "magnitude",
        "random, ERK": "random",
    }
    for label, criterion in criteria.items():
        spread_ = "erk" if label.endswith("ERK") else "global"
        epochs = setting.options.epochs
        yield label, tt.PruneAtInit(sparsity, epochs, criterion, spread_, seed=seed)


def run(options, seed):
    setting = terms.Terms(options, seed)
    work = options.work / f"seed{seed}"
    teachers = tt.train_teachers(
        setting.build,
        setting.data,
        options.teacher_epochs,
        work / "teachers",
        seed,
        batch_size=setting.batch_size,
    )
    rows = Rows(work / "rows.json", setting, {"seed": seed, "versions": versions()})
    cost = sum(options.teacher_epochs) + options.search_epochs
    for sparsity in SPARSITIES:
        search = kdlts(options, seed, sparsity, teachers)
        rows.add("KDLTS", sparsity, search, cost)
        for label, pruning in at_init(setting, seed, sparsity):
            rows.add(label, sparsity, pruning, 0)
    if options.imp:
        prune(rows, "IMP", tt.IMP(ROUNDS, options.epochs, RATE, seed=seed))
    if options.ablation:
        for label, search, epochs in ablation(options, seed, teachers):
            rows.add(label, options.ablation, search, epochs)
    if options.teach:
        teach(rows, setting)
    if options.early:
        early(rows, options, seed, teachers, cost)


def early(rows, options, seed, teachers, cost):
    """Adds tickets that start from weights early in training."""
    late = {"rewind_to": options.early}
    for sparsity in SPARSITIES:
        search = kdlts(options, seed, sparsity, teachers, **late)
        rows.add("KDLTS, early", sparsity, search, cost)
    imp = tt.IMP(ROUNDS, options.epochs, RATE, seed=seed, **late)
    prune(rows, "IMP, early", imp)


def prune(rows, label, imp):
    """Adds the tickets of all sparsities from one IMP search."""
    for sparsity, round_ in zip(SPARSITIES, CHOSEN, strict=True):
        rows.add(label, sparsity, imp, imp.engine.epochs_before(round_), round_)


def ablation(options, seed, teachers):
    """Yields KDLTS with fewer losses, fewer teachers, or other constraints."""
    answers = dl.LogitsDistillation(4.0)
    place = {"mnist": -2, "cifar10": -2}[options.dataset]
    given = options, seed, options.ablation
    alone, three = options.teacher_epochs[-1], sum(options.teacher_epochs)
    search = options.search_epochs
    feature, relation = dl.FeatureDistillation(place), dl.DistanceDistillation(place)
    yield "KDLTS, labels only", kdlts(*given, []), search
    for label, losses in (
        ("answers", [answers]),
        ("answers, features", [answers, feature]),
        ("answers, relations", [answers, relation]),
    ):
        found = kdlts(*given, teachers, distillation_losses=losses)
        yield f"KDLTS, {label}", found, search + three
    yield "KDLTS, one teacher", kdlts(*given, teachers[-1:]), search + alone
    for label, settings in (
        ("frozen weights", {"train_weights": False}),
        ("l1", {"mask": tt.masks.SoftMask(penalty=1e-6, scale_mask=False)}),
        ("top-k", {"mask": "topk", "allocation": "erk"}),
        ("ERK", {"allocation": "erk"}),
    ):
        yield f"KDLTS, {label}", kdlts(*given, teachers, **settings), search + three


def teach(rows, setting):
    """Trains the tickets of IMP with the dense network as their teacher."""
    parent = setting.trainer()
    parent.train(parent.dense_ticket(), setting.options.epochs)
    for weight in (0.1, 0.5):
        trainer = setting.trainer(taught(setting, parent.model, weight))
        for sparsity, round_ in zip(SPARSITIES, CHOSEN, strict=True):
            label = f"IMP, taught, labels {weight}"
            file = rows.path.parent / "IMP" / f"round_{round_:02}.ticket"
            if not rows.has(label, sparsity) and file.exists():
                ticket = tt.Ticket.load(file)
                rows.keep(label, sparsity, ticket, trainer, None)


def taught(setting, teacher, weight):
    """Returns a builder of distillers; `weight` is the weight of the labels."""

    def build():
        student = tt.wrap(setting.build(), verbose=False)
        losses = dl.LogitsDistillation(4.0)
        model = tt.Distiller(teacher, student, losses, student_loss_weight=weight)
        compiling.compile_like(model, student)
        return model

    return build


class Rows:
    """Results of one seed's trained tickets, saved after each ticket."""

    def __init__(self, path, setting, origin):
        self.path = path
        self.setting = setting
        self.trainer = setting.trainer()
        known = json.loads(path.read_text()) if path.exists() else {"rows": []}
        self.content = {**origin, "cores": os.cpu_count(), **known}
        if "dense" not in self.content:
            dense = self.trainer.dense_ticket()
            metrics = self.trainer.train(dense, setting.options.epochs)
            self.content["dense"] = metrics["test_accuracy"]
            self.write()

    @property
    def rows(self):
        return self.content["rows"]

    def has(self, label, sparsity):
        return any(r["label"] == label and r["wanted"] == sparsity for r in self.rows)

    def add(self, label, sparsity, search, cost, round_=1):
        """Searches a ticket and trains it from the initial weights."""
        if self.has(label, sparsity):
            return
        shared = label if label.startswith("IMP") else f"{label} {sparsity}"
        folder = self.path.parent / shared.replace(" ", "_").replace(",", "")
        ticket = self.setting.find(search, folder)[round_ - 1]
        trained = ticket.metrics if search.engine.plan.epochs_of_tickets else None
        self.keep(label, sparsity, ticket, self.trainer, cost, trained)

    def keep(self, label, sparsity, ticket, trainer, cost, metrics=None):
        metrics = metrics or trainer.train(ticket, self.setting.options.epochs)
        row = {
            "label": label,
            "wanted": sparsity,
            "sparsity": ticket.sparsity,
            "search_epochs": cost,
            "test_accuracy": metrics["test_accuracy"],
            "kept": ticket.kept,
        }
        self.rows.append(row)
        self.write()
        print(json.dumps(row)[:150], flush=True)

    def write(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.content, indent=1))


def collect(options):
    files = [options.work / f"seed{seed}" / "rows.json" for seed in options.seeds]
    runs = [json.loads(file.read_text()) for file in files]
    more = f"--search-epochs {options.search_epochs} --teacher-epochs "
    more += " ".join(map(str, options.teacher_epochs))
    more += f" --ablation {options.ablation}" if options.ablation else ""
    more += " --teach" if options.teach else ""
    more += f" --early '{options.early}'" if options.early else ""
    backend = runs[0]["versions"]["backend"]
    found = {
        "command": terms.command(options, "teaching", backend, more),
        "machine": f"{runs[0]['cores']} CPU cores",
        "dense": spread([run["dense"] for run in runs]),
        "points": points(runs),
        "runs": runs,
    }
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1))
    # Points without results for every seed appear only in the table.
    whole = [p for p in found["points"] if len(p["accuracy"]["values"]) == len(runs)]
    terms.plot(whole, found, options, "Tickets at initialization")
    return found


def points(runs):
    """Averages over the seeds, per search and sparsity."""
    groups = {}
    for row in (row for run in runs for row in run["rows"]):
        groups.setdefault((row["label"], row["wanted"]), []).append(row)
    return [
        {
            "label": label,
            "sparsity": sparsity,
            "search_epochs": rows[0]["search_epochs"],
            "accuracy": spread([row["test_accuracy"] for row in rows]),
        }
        for (label, sparsity), rows in groups.items()
    ]


def table(found):
    labels = list(dict.fromkeys(p["label"] for p in found["points"]))
    cells = {(p["label"], p["sparsity"]): show(p["accuracy"]) for p in found["points"]}
    costs = {p["label"]: p["search_epochs"] for p in found["points"]}
    head = " | ".join(f"{s:.0%}" for s in SPARSITIES)
    lines = [f"| search (epochs) | {head} |", "|---|" + "---|" * len(SPARSITIES)]
    for label in labels:
        row = " | ".join(cells.get((label, s), "") for s in SPARSITIES)
        lines.append(f"| {label} ({costs[label]}) | {row} |")
    return f"dense: {show(found['dense'])}\n" + "\n".join(lines)


def main():
    parser = terms.parser(__doc__)
    add = parser.add_argument
    add("--search-epochs", type=int, default=8, help="epochs of a KDLTS search")
    add(
        "--teacher-epochs",
        type=int,
        nargs="+",
        default=[1, 2, 4],
        help="epochs of each teacher",
    )
    add("--score-optimizer", help="of KDLTS (default: the weights' optimizer)")
    add(
        "--ablation",
        type=float,
        metavar="SPARSITY",
        help="also run the ablation, at this sparsity",
    )
    add("--early", metavar="WHEN", help="also rewind to this step, such as '1 epochs'")
    add("--no-imp", dest="imp", action="store_false", help="skip IMP")
    add("--teach", action="store_true", help="also distill the tickets of IMP")
    options = terms.complete(parser.parse_args(), "teaching")
    if options.teach and not options.imp:
        parser.error("--teach needs the tickets of IMP: remove --no-imp")
    if not options.collect:
        for seed in options.seeds:
            run(options, seed)
    if all((options.work / f"seed{s}" / "rows.json").exists() for s in options.seeds):
        print(table(collect(options)))


if __name__ == "__main__":
    main()
