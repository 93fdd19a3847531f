"""Compares supermasks of Continuous and of stochastic sparsification.

    python benchmarks/supermask.py --dataset mnist --data-dir DIR

The weights stay at initialization; only the mask is learned, in one round. As in the
paper, the sparsity of Continuous Sparsification is controlled by its penalty, and that
of stochastic sparsification by the initial score. The scores are trained with Adam at
3e-4 times `--speed`, or with SGD at learning rate 100. Accuracy is measured on the test
set, with the hard mask and the untrained random weights. For stochastic sparsification
there are two hard masks: a sampled mask, and the mask of all probabilities above 0.5.
"""

import argparse
import dataclasses
import json
import pathlib

import keras

import tf_tickets as tt
from tf_tickets.environment import versions
from tf_tickets.experiments import recipes
from tf_tickets.reports import plots
from tf_tickets.search.methods import stochastic

HERE = pathlib.Path(__file__).parent
NETWORKS = {"mnist": "lenet300", "cifar10": "conv2"}


def searches(options):
    """Yields pairs of a label and a search."""
    adam = keras.optimizers.Adam(3e-4 * options.speed)
    sgd = keras.optimizers.SGD(100.0)
    for penalty in options.penalties:
        mask = tt.masks.SoftMask(options.score, penalty=penalty)
        yield f"CS penalty={penalty}", _search(options, mask, adam)
    for score in options.scores:
        mask = tt.masks.StochasticMask(score)
        yield f"SS score={score}", _search(options, mask, sgd)


def _search(options, mask, optimizer):
    return tt.Supermask(
        options.epochs, mask, score_optimizer=optimizer, seed=options.seed
    )


def run(options):
    data = tt.datasets.load(options.dataset, options.data_dir, scaling="unit")
    data = data.take(options.take) if options.take else data
    network = NETWORKS[options.dataset]

    def build():
        shape = data.input_shape, data.num_classes
        return recipes.build(network, *shape, width=options.width)

    model = build()
    found = {**origin(options), "points": []}
    for label, search in searches(options):
        last = Last(search)
        [ticket] = tt.find_tickets(
            build,
            data,
            search,
            seed=options.seed,
            batch_size=recipes.recipe(network).batch_size,
            callbacks=[last],
            verbose=0,
        )
        for name, masks in last.masks.items():
            point = {"label": label, "ticket": name, "learned": ticket.metrics}
            taken = dataclasses.replace(ticket, masks=masks)
            point |= {"sparsity": taken.sparsity, **accuracy(model, taken, data)}
            found["points"].append(point)
            print(line(point), flush=True)
        options.out.parent.mkdir(exist_ok=True)
        options.out.write_text(json.dumps(found, indent=1))
    plot(found, options.out.with_suffix(".png"))


class Last(keras.callbacks.Callback):
    """Keeps the final hard masks: thresholded and, if stochastic, sampled."""

    def __init__(self, search):
        super().__init__()
        self.search = search

    def on_train_end(self, logs=None):
        self.masks = {"threshold": tt.kernels(self.model).masks}
        if isinstance(self.search.mask, tt.masks.StochasticMask):
            layers = tt.kernels(self.model).mask_layers
            self.masks["drawn"] = stochastic.sampled(layers, self.search.seed, 1)


def accuracy(model, ticket, data):
    """Returns the test accuracy of the random weights with the ticket's mask."""
    wrapped = ticket.apply(model)
    found = wrapped.evaluate(
        data.x_test, data.y_test, batch_size=500, verbose=0, return_dict=True
    )
    return {"test_accuracy": found["accuracy"]}


def origin(options):
    given = {k: v for k, v in vars(options).items() if k not in ("out", "data_dir")}
    words = [
        f"--{name.replace('_', '-')} {_words(value)}"
        for name, value in given.items()
        if value is not None
    ]
    command = f"python benchmarks/supermask.py --data-dir DIR {' '.join(words)}"
    return {"command": command, "settings": given, "versions": versions()}


def _words(value):
    return " ".join(map(str, value)) if isinstance(value, list) else value


def line(point):
    return (
        f"{point['label']:22}{point['ticket']:11}weights left "
        f"{1 - point['sparsity']:7.2%}  test accuracy {point['test_accuracy']:.2%}"
    )


def plot(found, path):
    lines = {}
    for point in found["points"]:
        name = f"{point['label'].split()[0]}, {point['ticket']}"
        pair = (1 - point["sparsity"], point["test_accuracy"])
        lines.setdefault(name, []).append(pair)
    title = f"Supermasks, {found['settings']['dataset']}"
    plots.plot_frontier(lines, [], path, None, "test accuracy", title)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--dataset", choices=list(NETWORKS), default="mnist")
    add("--data-dir")
    add("--epochs", type=int, default=15)
    add("--penalties", type=float, nargs="+", default=[1e-8, 1e-6, 1e-5, 3e-5, 1e-4])
    add("--score", type=float, default=0.0, help="initial score of CS")
    add(
        "--speed",
        type=float,
        default=10.0,
        help="multiplier of Adam's learning rate 3e-4",
    )
    add("--scores", type=float, nargs="+", default=[-3.0, -1.5, 0.0, 1.5, 3.0])
    add("--width", type=float, default=1.0)
    add("--take", type=int, help="number of training images (default: all)")
    add("--seed", type=int, default=0)
    add("--out", type=pathlib.Path)
    options = parser.parse_args()
    name = f"supermask_{options.dataset}.json"
    options.out = options.out or HERE / "results" / name
    run(options)


if __name__ == "__main__":
    main()
