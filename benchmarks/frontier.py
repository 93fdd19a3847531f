"""Compares Continuous Sparsification, stochastic sparsification and IMP.

    python benchmarks/frontier.py --dataset mnist --data-dir DIR --seeds 0 1 2

All searches start from the same initial weights. Every ticket is trained from them for
as many epochs as one round of the search. Continuous Sparsification runs once per
initial score. Weights and scores are trained with the network's recipe (Adam), except
the scores of stochastic sparsification, which use SGD with learning rate 20. Accuracy
is measured on the test set after the last epoch. Run the same command again to resume
an interrupted run; `--collect` only summarizes finished runs.
"""

import json

import terms
from spreads import show, spread

METHODS = ("CS", "ISS", "IMP")
SETTINGS = ("dataset", "take", "width", "learning_rate")


def searches(options, rate, seed):
    import tf_tickets as tt

    cs = tt.ContinuousSparsification(4, options.epochs, seed=seed)
    found = {f"CS {k}": s for k, s in cs.varied(initial_score=options.scores).items()}
    found["ISS"] = tt.StochasticSparsification(10, options.epochs, seed=seed)
    found["IMP"] = tt.IMP(options.imp_rounds, options.epochs, rate=rate, seed=seed)
    return {k: s for k, s in found.items() if k.split()[0] in options.methods}


def run(options, seed):
    import tf_tickets as tt

    setting = terms.Terms(options, seed)
    tt.find_frontier(
        setting.build,
        setting.data,
        searches(options, setting.recipe.rate, seed),
        options.work / f"seed{seed}",
        seed,
        epochs=options.epochs,
        batch_size=setting.batch_size,
    )


def collect(options):
    files = [options.work / f"seed{seed}" / "frontier.json" for seed in options.seeds]
    runs = [json.loads(file.read_text()) for file in files]
    found = {
        "command": command(options, runs[0]["provenance"]["versions"]["backend"]),
        "machine": f"{runs[0]['provenance']['cores']} CPU cores",
        **{name: getattr(options, name) for name in SETTINGS},
        "seeds": options.seeds,
        "epochs_per_round": options.epochs,
        "dense": spread([r["dense"]["test_accuracy"] for r in runs]),
        "points": points(runs),
        "first_matching": [matching(r, t) for r in runs for t in (0.0, 0.002)],
        "runs": runs,
    }
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1))
    plot(found, options.out.with_suffix(".png"))
    return found


def points(runs):
    """Averages over the seeds, per search and round."""
    rows = []
    for same in zip(*(run["points"] for run in runs), strict=True):
        row = {name: same[0][name] for name in ("label", "round", "search_epochs")}
        row["sparsity"] = spread([p["sparsity"] for p in same])
        row["accuracy"] = spread([p["metrics"]["test_accuracy"] for p in same])
        rows.append(row)
    return rows


def matching(run, tolerance):
    """Returns the search epochs until a ticket of each method matches dense.

    The result maps a minimum sparsity to a dict from method to epochs.
    """
    least = run["dense"]["test_accuracy"] - tolerance
    good = [p for p in run["points"] if p["metrics"]["test_accuracy"] >= least]
    found = {}
    for sparsity in (0.5, 0.8, 0.9, 0.95, 0.97):
        for method in METHODS:
            costs = [
                p["search_epochs"]
                for p in good
                if p["label"].startswith(method) and p["sparsity"] >= sparsity
            ]
            found.setdefault(str(sparsity), {})[method] = min(costs, default=None)
    return {
        "seed": run["provenance"]["seed"],
        "tolerance": tolerance,
        "epochs": found,
    }


def plot(found, path):
    import tf_tickets as tt
    from tf_tickets.search.frontier import Point

    frontiers = []
    for run in found["runs"]:
        seed = run["provenance"]["seed"]
        rows = [{k: row[k] for k in row if k != "optimal"} for row in run["points"]]
        points = [Point(**{**row, "seed": seed}) for row in rows]
        fields = (run["dense"], run["monitor"], run["provenance"])
        frontiers.append(tt.Frontier(points, *fields))
    title = f"Trained tickets, {found['dataset']}, {len(found['seeds'])} seed(s)"
    tt.Frontier.join(frontiers).plot(path, title)


def command(options, backend):
    scores = " ".join(map(str, options.scores))
    more = f"--imp-rounds {options.imp_rounds} --scores {scores}"
    return terms.command(options, "frontier", backend, more)


def table(found):
    lines = [
        "| search | round | search epochs | weights left | test accuracy |",
        "|---|---|---|---|---|",
        f"| dense | | | 100 % | {show(found['dense'])} |",
    ]
    for p in found["points"]:
        left = 1 - p["sparsity"]["mean"]
        lines.append(
            f"| {p['label']} | {p['round']} | {p['search_epochs']} | {left:.2%} | "
            f"{show(p['accuracy'])} |"
        )
    return "\n".join(lines)


def main():
    parser = terms.parser(__doc__)
    parser.add_argument("--imp-rounds", type=int, default=15, help="rounds of IMP")
    parser.add_argument(
        "--scores", type=float, nargs="+", default=[-0.3, -0.2, -0.1, -0.03, 0.03]
    )
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    options = terms.complete(parser.parse_args(), "frontier")
    if not options.collect:
        for seed in options.seeds:
            run(options, seed)
    if all(
        (options.work / f"seed{s}" / "frontier.json").exists() for s in options.seeds
    ):
        print(table(collect(options)))


if __name__ == "__main__":
    main()
