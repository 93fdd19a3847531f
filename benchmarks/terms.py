"""Shared setup of the comparisons: options, data, network and training."""

import argparse
import pathlib

HERE = pathlib.Path(__file__).parent
NETWORKS = {"mnist": "lenet300", "cifar10": "conv2"}


def parser(description, epochs=8):
    """Returns a parser of the options that all comparisons share."""
    found = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = found.add_argument
    add("--dataset", choices=list(NETWORKS), default="mnist")
    add("--data-dir")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--epochs", type=int, default=epochs, help="training epochs per ticket")
    add("--width", type=float, default=1.0)
    add("--take", type=int, help="number of training images (default: all)")
    add("--learning-rate", type=float, help="default: the recipe's")
    add("--work", type=pathlib.Path, help="directory for intermediate results")
    add(
        "--out",
        type=pathlib.Path,
        help="JSON file (default: results/NAME_DATASET.json)",
    )
    add("--collect", action="store_true", help="only summarize finished runs")
    return found


def complete(options, name):
    """Sets the default output paths."""
    name = f"{name}_{options.dataset}"
    options.work = options.work or HERE / "runs" / name
    options.out = options.out or HERE / "results" / f"{name}.json"
    return options


def command(options, name, backend, *more):
    """Returns the command line that reproduces a run."""
    seeds = " ".join(map(str, options.seeds))
    parts = [
        f"KERAS_BACKEND={backend} python benchmarks/{name}.py",
        f"--dataset {options.dataset} --data-dir DIR --seeds {seeds}",
        f"--epochs {options.epochs} --width {options.width}",
        *more,
    ]
    parts += [f"--take {options.take}"] if options.take else []
    if options.learning_rate:
        parts.append(f"--learning-rate {options.learning_rate}")
    return " ".join(parts)


class Terms:
    """Data, network and training that all searches of a seed share."""

    def __init__(self, options, seed):
        import tf_tickets as tt
        from tf_tickets.experiments import recipes

        data = tt.datasets.load(options.dataset, options.data_dir, scaling="unit")
        self.data = data.take(options.take) if options.take else data
        self.recipe = recipes.recipe(NETWORKS[options.dataset])
        self.options = options
        self.seed = seed
        self.batch_size = self.recipe.batch_size

    def build(self):
        from tf_tickets.experiments import recipes

        shape, classes = self.data.input_shape, self.data.num_classes
        width = self.options.width
        model = recipes.build(self.recipe.name, shape, classes, width=width)
        if self.options.learning_rate:
            model.optimizer.learning_rate = self.options.learning_rate
        return model

    def trainer(self, build=None):
        import tf_tickets as tt

        build = build or self.build
        return tt.TicketTrainer(build, self.data, self.seed, self.batch_size)

    def find(self, search, directory):
        import tf_tickets as tt

        return tt.find_tickets(
            self.build,
            self.data,
            search,
            directory,
            self.seed,
            batch_size=self.batch_size,
            verbose=0,
        )


def staircase(lines):
    """Returns the Pareto-optimal points."""
    best = []
    pairs = [pair for line in lines.values() for pair in line]
    for pair in sorted(pairs, key=lambda pair: (pair[0], -pair[1])):
        if not best or pair[1] > best[-1][1]:
            best.append(pair)
    return best


def plot(points, found, options, what):
    """Plots a line for each label with several points, next to the JSON file."""
    from tf_tickets.reports import plots

    lines = {}
    for point in points:
        pair = (1 - point["sparsity"], point["accuracy"]["mean"])
        lines.setdefault(point["label"], []).append(pair)
    lines = {k: sorted(v, reverse=True) for k, v in lines.items() if len(v) > 1}
    title = f"{what}, {options.dataset}, {len(options.seeds)} seed(s)"
    path, dense = options.out.with_suffix(".png"), found["dense"]["mean"]
    best = staircase(lines)
    plots.plot_frontier(lines, best, path, dense, "test accuracy", title)
