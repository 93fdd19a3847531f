"""Writes the frozen files that `tests/test_frozen.py` loads.

tf_tickets 0.1.0 saved them, and newer versions must be able to read them. They are
therefore written once, and an existing file is never overwritten. The files in the
repository were written at commit 3d277b6 with Keras 3.15, by

    KERAS_BACKEND=tensorflow python tests/frozen/make.py models tests/frozen
    KERAS_BACKEND=tensorflow python tests/frozen/make.py searches tests/frozen
    KERAS_BACKEND=jax python tests/frozen/make.py searches tests/frozen

which gives

    models/*.keras          wrapped models, by TensorFlow
    models/expected.npz     their inputs, outputs, hard masks and so on
    <backend>/*.ticket      tickets
    <backend>/*/            directories of interrupted searches

All numbers come from `np.random.RandomState`, whose streams NumPy never changes. To
freeze the files of a later version, adapt this script and write into another folder.
"""

import argparse
import pathlib

import keras
import numpy as np
from keras import layers as kl

import tf_tickets as tt

CLASSES = 3
# Arguments of `find_ticket` for every search.
GIVEN = {"seed": 3, "batch_size": 16, "verbose": 0}


def numbers(seed, *shape):
    """Returns uniform random numbers from -1 to 1."""
    return np.random.RandomState(seed).uniform(-1, 1, shape).astype("float32")


def array(variable):
    return np.array(keras.ops.convert_to_numpy(variable.value))


def data(size, seed):
    x = numbers(seed, size, 6)
    return x, np.argmax(x[:, :3] + 0.5 * x[:, 3:], axis=1)


def splits():
    """Returns pairs for training, validation and test."""
    return data(64, 1), data(32, 2), data(32, 3)


def network():
    layers = [
        keras.Input((6,)),
        kl.Dense(8, activation="relu", name="hidden"),
        kl.BatchNormalization(name="norm"),
        kl.Dense(CLASSES, name="output"),
    ]
    return keras.Sequential(layers, name="net")


def compiled(model, optimizer):
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        jit_compile=keras.config.backend() == "jax",
    )
    return model


def build():
    """Builds the compiled model of every search."""
    return compiled(network(), keras.optimizers.SGD(0.05, momentum=0.9))


def fill(model, seed=0):
    """Sets all weights except masks."""
    for place, variable in enumerate(model.variables):
        if variable.dtype != "float32":
            continue
        values = numbers(100 * seed + place, *variable.shape)
        positive = variable.name in ("gamma", "moving_variance")
        variable.assign(1.0 + 0.5 * values if positive else values)
    return model


# Wrapped models.


def deep():
    """Builds a model with kernels inside cells, attention and a nested model."""
    head = [keras.Input((5, 6)), kl.GlobalAveragePooling1D(), kl.Dense(2, name="last")]
    steps = keras.Input((5, 4), name="steps")
    cells = kl.GRU(3, return_sequences=True, name="cells")
    x = kl.Bidirectional(cells, name="both")(steps)
    x = kl.MultiHeadAttention(2, 3, name="attention")(x, x)
    return keras.Model(steps, keras.Sequential(head, name="head")(x), name="deep")


def growing():
    return tt.schedules.ExponentialTemperature(1.0, 50.0)


def kinds():
    """Returns one mask of each parametrization by name."""
    masks = tt.masks
    return {
        "fixed": "fixed",
        "scaled": "scaled",
        "penalized": masks.PenalizedMask(tt.schedules.GrowingPenalty(0.01, power=2.0)),
        "soft": masks.SoftMask(0.1, 1e-3, growing()),
        "budget": masks.BudgetMask(50.0, 0.1, growing()),
        # Otherwise it samples in evaluation, with different numbers on each backend.
        "stochastic": masks.StochasticMask(0.1, 1e-3, "threshold", seed=3),
        "topk": masks.TopKMask(0.5, seed=3),
    }


def prunables(model):
    """Yields the wrapped layers of a model and its nested models."""
    result = []
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            result += prunables(layer)
        elif isinstance(layer, tt.layers.Prunable):
            result.append(layer)
    return result


def mask_pairs(model):
    """Yields pairs of a kernel and its mask."""
    for layer in prunables(model):
        yield from zip(layer.kernel_variables.values(), layer.kernel_masks, strict=True)


def set_masks(model):
    """Sets the state of all masks as in the middle of a training."""
    for place, (kernel, mask) in enumerate(mask_pairs(model)):
        drawn = numbers(1000 + place, *kernel.shape)
        values = {
            "mask": drawn > 0.1,
            "chosen": drawn > 0.6,
            "scale": np.float32(1.5),
            "mask_scores": drawn,
            "count": kernel.shape[0],
            "multiplier": np.float32(0.25),
            "target": np.float32(0.4),
            **{"sealed": 40, "now": 40, "steps": 100, "epochs": 2},
        }
        for variable in mask.variables:
            if variable.name in values:
                variable.assign(values[variable.name])
        if mask.learned is False:
            # As the library does: pruned weights are 0.
            kernel.assign(array(kernel) * (drawn > 0.1))
    return model


def learning():
    """Builds and briefly trains a model with a separate optimizer for scores."""
    model = compiled(fill(network()), keras.optimizers.Adam(0.01))
    mask = tt.masks.SoftMask(0.02, 1e-3, growing())
    scores = keras.optimizers.SGD(0.5, momentum=0.9)
    model = tt.wrap(model, mask=mask, score_optimizer=scores, verbose=False)
    train(model)
    return model


def taught():
    """Builds a compiled student with two teachers and losses of every kind."""
    student = set_masks(tt.wrap(fill(network(), 1), verbose=False))
    losses = tt.distillation
    kinds = [
        losses.LogitsDistillation(2.0),
        losses.FeatureDistillation("hidden", "hidden", project=True),
        losses.DistanceDistillation("norm", "norm"),
        losses.AngleDistillation(),
        losses.SimilarityDistillation("hidden", "hidden"),
    ]
    teachers = [fill(network(), 2), fill(network(), 3)]
    weights = [1.0, 0.5, 0.25, 0.125, 2.0]
    model = tt.Distiller(teachers, student, kinds, weights, student_loss_weight=0.25)
    projection = model.distillation_losses[1].projection.kernel
    projection.assign(numbers(5, *projection.shape))
    train(compiled(model, keras.optimizers.Adam(0.01)))
    return model


def train(model):
    model.fit(*data(64, 1), batch_size=16, epochs=2, shuffle=False, verbose=0)


def hard_mask(mask):
    """Computes what a mask keeps from its variables."""
    values = {variable.name: array(variable) for variable in mask.variables}
    if "mask" in values:
        return values["mask"]
    scores = values["mask_scores"]
    if "count" not in values:
        return scores > 0
    least = np.sort(np.abs(scores), axis=None)[-values["count"]]
    return np.abs(scores) >= least


def expected(model, inputs):
    """Returns a dict of the values that a loaded model must reproduce."""
    network_ = model.student if isinstance(model, tt.Distiller) else model
    masks = [hard_mask(mask) for _, mask in mask_pairs(network_)]
    kept = sum(int(mask.sum()) for mask in masks) / sum(mask.size for mask in masks)
    if not 0.1 < kept < 0.9:
        raise ValueError(f"The masks say little: they keep {kept} of the weights.")
    result = {
        "inputs": inputs,
        "outputs": np.array(keras.ops.convert_to_numpy(model(inputs, training=False))),
        "losses": np.float32(sum(model.losses) if model.losses else 0.0),
        **{f"masks/{place}": mask for place, mask in enumerate(masks)},
    }
    if model.compiled:
        slots = enumerate(model.optimizer.variables)
        result |= {f"optimizer/{place:02}": array(slot) for place, slot in slots}
        result["evaluated"] = np.float32(model.evaluate(*data(32, 2), verbose=0)[0])
    return result


def models(folder):
    """Writes models and their expected values."""
    wrapped = {
        name: set_masks(tt.wrap(fill(network()), mask=kind, verbose=False))
        for name, kind in kinds().items()
    }
    wrapped["deep"] = set_masks(tt.wrap(fill(deep()), verbose=False))
    wrapped |= {"learning": learning(), "taught": taught()}
    wanted = {}
    for name, model in wrapped.items():
        inputs = numbers(7, 4, *((5, 4) if name == "deep" else (6,)))
        wanted[name] = expected(model, inputs)
        model.save(new(folder / "models" / f"{name}.keras"))
    flat = {f"{n}/{key}": x for n, table in wanted.items() for key, x in table.items()}
    np.savez_compressed(new(folder / "models" / "expected.npz"), **flat)


# Tickets and interrupted searches.


def full_searches():
    """Returns a dict from a ticket's name to the search that finds it last."""
    teacher, fast = fill(network(), 2), keras.optimizers.Adam(0.01)
    return {
        "imp": tt.IMP(2, 2, 0.3),
        "cs": tt.ContinuousSparsification(1, 8, 0.02, score_optimizer=fast),
        "dlth": tt.DLTH(0.75, penalty_epochs=2, epochs_per_round=1),
        "kdlts": tt.KDLTS(0.75, 2).taught_by(teacher),
    }


def interrupted_searches():
    """Returns a dict from a directory's name to the search stored there."""
    stop = tt.EarlyStopRewind(patience=1, min_delta=1.0)
    return {
        "imp": tt.IMP(2, 2, 0.3, "2 steps"),
        "cs": tt.ContinuousSparsification(2, 2, score_optimizer="adam"),
        "unilth": tt.UniLTH(0.75, 2, 3, 2, 1, early_stop=stop, train="each"),
        "threshold": tt.ThresholdPruning(2, 2),
    }


class Interrupted(Exception):
    """Raised in the middle of a search."""


class Interrupter(keras.callbacks.Callback):
    """Interrupts a search after round 1, when its directory has been written.

    It stops between epochs: within one, TensorFlow's data pipeline may hang.
    """

    def __init__(self, search):
        super().__init__()
        self.search = search

    def on_epoch_begin(self, epoch, logs=None):
        if self.search.round == 2:
            raise Interrupted


def searches(folder):
    """Writes tickets, and directories of searches that were interrupted."""
    folder = folder / keras.config.backend()
    for name, search in full_searches().items():
        ticket = tt.find_ticket(build, splits(), search, **GIVEN)[-1]
        ticket.save(new(folder / f"{name}.ticket"))
        if name == "imp":
            ticket.save(new(folder / "imp_by_seed.ticket"), weights=False)
    for name, search in interrupted_searches().items():
        kept = {"directory": new(folder / name), "callbacks": [Interrupter(search)]}
        try:
            tt.find_ticket(build, splits(), search, **kept, **GIVEN)
        except Interrupted:
            continue
        raise ValueError(f"The search {name!r} was not interrupted.")


def new(path):
    """Creates the parent folder of a new path; raises an error if the path exists."""
    if path.exists():
        raise FileExistsError(f"{path} exists, and frozen files stay as they are.")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["models", "searches"])
    parser.add_argument("folder", type=pathlib.Path)
    given = parser.parse_args()
    {"models": models, "searches": searches}[given.what](given.folder)


if __name__ == "__main__":
    main()
