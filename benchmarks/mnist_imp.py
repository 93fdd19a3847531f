"""Runs IMP of LeNet-300-100 on MNIST with control experiments.

    python benchmarks/mnist_imp.py --data-dir DIR --seeds 0 1 2

As in the published replication: Adam with learning rate 1.2e-3, batch size 60, pixels
from 0 to 1. A round prunes 20 % of the hidden layers and 10 % of the output layer.
Tickets start from the weights at initialization. Two controls are trained on the same
batches as each ticket: its masks with a random reinitialization, and its masks shuffled
within each layer. Accuracy is measured on the test set after the last epoch. Run the
same command again to resume an interrupted run; `--collect` only summarizes finished
runs.
"""

import argparse
import json
import pathlib

from spreads import show, spread

HERE = pathlib.Path(__file__).parent

# Published test accuracy in % per round: ticket, reinit. A replication at KTH with 5
# trials, 20 epochs per round, and the same optimizer, batch size and pruning rates.
PUBLISHED = dict(enumerate([
    (98.12, 97.97), (98.11, 98.05), (98.15, 97.97), (98.05, 98.08), (98.11, 97.88),
    (98.25, 97.89), (98.30, 97.85), (98.37, 97.95), (98.39, 97.53), (98.40, 97.67),
    (98.42, 97.27), (98.38, 97.28), (98.31, 97.12), (98.30, 96.76), (98.16, 96.29),
    (97.85, 95.95), (97.87, 95.80), (97.83, 94.96), (97.56, 94.24),
]))  # fmt: skip


def run(options, seed):
    from tf_tickets_cli import experiment, settings

    chosen = {name: getattr(options, name) for name in ("rounds", "epochs", "scaling")}
    setting = settings.Setting("mnist", "lenet300", options.data_dir, seed, chosen)
    experiment.Experiment(setting, options.work / f"seed{seed}").run()


def collect(options):
    folders = [options.work / f"seed{seed}" for seed in options.seeds]
    runs = [json.loads((f / "results.json").read_text()) for f in folders]
    dense = [run["dense"] for run in runs]
    rows = []
    for rounds in zip(*(run["rows"] for run in runs), strict=True):
        row = {"round": rounds[0]["round"], "sparsity": rounds[0]["sparsity"]}
        for name in ("ticket", "reinit", "shuffled"):
            row[name] = spread([r[name] for r in rounds])
        rows.append(row)
    found = {
        "command": _command(options, runs[0]["versions"]["backend"]),
        "machine": f"{runs[0]['cores']} CPU cores",
        "seeds": options.seeds,
        "scaling": options.scaling,
        "rounds": options.rounds,
        "epochs_per_round": options.epochs,
        "versions": runs[0]["versions"],
        "dense": spread(dense),
        "rows": rows,
        "runs": runs,
    }
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1))
    return found


def _command(options, backend):
    return (
        f"KERAS_BACKEND={backend} python benchmarks/mnist_imp.py --data-dir DIR "
        f"--seeds {' '.join(map(str, options.seeds))} --rounds {options.rounds} "
        f"--epochs {options.epochs} --scaling {options.scaling}"
    )


def table(found):
    lines = [
        "| round | weights left | ticket | reinit | shuffled | published ticket | "
        "published reinit |",
        "|---|---|---|---|---|---|---|",
    ]
    dense = found["dense"]
    lines.append(f"| 0 | 100.0 % | {show(dense)} | | | {PUBLISHED[0][0]:.2f} | |")
    for row in found["rows"]:
        known = PUBLISHED.get(row["round"], (float("nan"),) * 2)
        cells = [show(row[name]) for name in ("ticket", "reinit", "shuffled")]
        lines.append(
            f"| {row['round']} | {1 - row['sparsity']:.1%} | {' | '.join(cells)} | "
            f"{known[0]:.2f} | {known[1]:.2f} |"
        )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=13)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--scaling", default="unit", choices=("unit", "standard"))
    parser.add_argument(
        "--work", type=pathlib.Path, default=HERE / "runs" / "mnist_imp"
    )
    parser.add_argument(
        "--out", type=pathlib.Path, default=HERE / "results/mnist_imp.json"
    )
    parser.add_argument("--collect", action="store_true")
    options = parser.parse_args()
    if not options.collect:
        for seed in options.seeds:
            run(options, seed)
    if all(
        (options.work / f"seed{s}" / "results.json").exists() for s in options.seeds
    ):
        print(table(collect(options)))


if __name__ == "__main__":
    main()
