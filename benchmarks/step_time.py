"""Measures step time relative to dense models, and the time between rounds.

    KERAS_BACKEND=tensorflow python benchmarks/step_time.py
    KERAS_BACKEND=tensorflow python benchmarks/step_time.py --only step --jit true
    KERAS_BACKEND=jax python benchmarks/step_time.py --only step fit turn

Keras compiles TensorFlow's steps with XLA only where there is an accelerator, JAX's
always. With TensorFlow, `--jit true` compiles with XLA anywhere, and writes to a file
of its own.

All timings are interleaved in one process. A pair is n train steps of A and n of B; the
next pair starts with B. The ratio of a pair is B / A. Medians and quartiles are over
the pairs.

step       The compiled train step alone, on a batch in memory.
learned    The same with learned masks, whose scores have a separate Adam optimizer.
penalized  The same with a growing penalty on a random half of each kernel.
floor      A dense step written by hand, and hand-written steps with a mask and with a
           penalty relative to it, as in benchmarks/step_floor.py; LeNet-300-100 only.
distilled  The same in a Distiller, with teachers and with their cached outputs
           (`remember`): the outputs of one teacher; the outputs, features and distances
           of three teachers.
fit        `model.fit` of n steps, including the overhead of a call of `fit`.
tfmot      `fit` of n steps with tensorflow-model-optimization's pruning and its
           callback on tf_keras, relative to a dense tf_keras model. Compare with `fit`.
turn       The time from a round's last step to the next round's first step, in training
           steps, and the same time between two epochs of a dense `fit`.
"""

import argparse
import dataclasses
import datetime
import importlib.metadata
import itertools
import json
import math
import os
import pathlib
import platform
import subprocess
import sys
import time

import keras
import numpy as np
import step_floor

import tf_tickets as tt
from tf_tickets import ranking, wrapping
from tf_tickets.experiments import models

SPARSITY = 0.8
PARTS = ("step", "learned", "penalized", "floor", "distilled", "fit", "tfmot", "turn")
PACKAGES = (
    *("keras", "tensorflow", "jax", "numpy"),
    *("tensorflow-model-optimization", "tf_keras"),
)


@dataclasses.dataclass(frozen=True)
class Setup:
    """A network with the optimizer and batch size of its paper."""

    name: str
    input_shape: tuple
    batch_size: int
    optimizer: str
    # Small, so that thousands of steps on random labels hardly change the weights: a
    # collapsed or diverged network may run at a different speed.
    learning_rate: float = 1e-5

    def build(self, seed):
        keras.utils.set_random_seed(seed)
        return getattr(models, self.name)(input_shape=self.input_shape)

    def compile(self, model, library, jit):
        """Compiles a model of `library`, either keras or tf_keras."""
        momentum = {"momentum": 0.9} if self.optimizer == "SGD" else {}
        make = getattr(library.optimizers, self.optimizer)
        loss = library.losses.SparseCategoricalCrossentropy(from_logits=True)
        choice = {} if jit == "auto" else {"jit_compile": jit == "true"}
        model.compile(make(self.learning_rate, **momentum), loss, **choice)
        return model

    def data(self, steps, seed):
        rng = np.random.default_rng(seed)
        rows = steps * self.batch_size
        x = rng.standard_normal((rows, *self.input_shape), dtype="float32")
        return x, rng.integers(0, 10, rows)


SETUPS = {
    setup.name: setup
    for setup in (
        Setup("lenet300", (784,), 60, "Adam"),
        Setup("conv6", (32, 32, 3), 60, "Adam"),
        Setup("resnet20", (32, 32, 3), 128, "SGD"),
        Setup("resnet8", (32, 32, 3), 128, "SGD"),
    )
}


# Running n steps.


def steps_of(model, data):
    """Returns a function that runs n compiled train steps and waits for the last."""
    model.fit(*data, batch_size=len(data[1]), verbose=0)
    tensors = keras.tree.map_structure(keras.ops.convert_to_tensor, data)
    batches = itertools.repeat(tensors)
    if keras.config.backend() == "jax":
        return _jax_steps(model, batches)

    def run(steps):
        for _ in range(steps):
            logs = model.train_function(batches)
        float(logs["loss"])

    return run


def jax_state(model):
    """Returns the values that a train step on JAX takes and gives back."""
    parts = (
        *(model.trainable_variables, model.non_trainable_variables),
        *(model.optimizer.variables, model.metrics_variables),
    )
    return tuple([variable.value for variable in part] for part in parts)


def _jax_steps(model, batches):
    import jax

    # The step donates its state; the copies keep the model intact.
    state = jax.tree.map(jax.numpy.copy, jax_state(model))

    def run(steps):
        nonlocal state
        for _ in range(steps):
            _, state = model.train_function(state, batches)
        jax.block_until_ready(state)

    return run


def fit_of(model, data, callbacks=()):
    """Returns a function that fits n steps, in Keras or tf_keras."""

    def run(steps):
        model.fit(
            endless(data),
            steps_per_epoch=steps,
            shuffle=False,
            verbose=0,
            callbacks=list(callbacks),
        )

    return run


def endless(batch):
    """Returns the cheapest source of batches for `fit` on each backend."""
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        return tf.data.Dataset.from_tensors(batch).repeat()
    return (batch for _ in itertools.count())


# Timing and comparing.


def timed(run, steps):
    begin = time.perf_counter()
    run(steps)
    return time.perf_counter() - begin


def steps_to_fill(run, seconds):
    """Returns how many steps take about `seconds`, excluding a call's overhead."""
    if seconds == 0.0:
        return 2
    run(2)
    few, more = timed(run, 2), timed(run, 12)
    return max(2, math.ceil(10 * seconds / max(more - few, 1e-3)))


def compare(dense, other, steps, pairs):
    """Times interleaved pairs of n steps each, in alternating order."""
    # TensorFlow's `fit` retraces in its first three or four calls.
    for run in 5 * (dense, other):
        run(min(steps, 3))
    rows = []
    for pair in range(pairs):
        order = (dense, other) if pair % 2 == 0 else (other, dense)
        seconds = {run: timed(run, steps) / steps for run in order}
        rows.append((seconds[dense], seconds[other]))
    first, second = np.array(rows).T
    return {
        "ratio": summary(second / first),
        "dense_seconds_per_step": summary(first),
        "seconds_per_step": summary(second),
        "steps_per_timing": steps,
        "pairs": pairs,
    }


def summary(values):
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    return {"median": float(median), "quartiles": [float(low), float(high)]}


# The parts of the benchmark.


def dense_model(setup, arguments):
    return setup.compile(setup.build(arguments.seed), keras, arguments.jit)


def wrapped_model(setup, arguments, sparsity):
    """Returns a wrapped model with random masks of equal sparsity in each kernel."""
    model = wrapping.wrap(setup.build(arguments.seed), verbose=False)
    rng = np.random.default_rng(arguments.seed)
    masks = {
        path: ranking.keep_largest(
            rng.random(mask.shape), round((1 - sparsity) * mask.size)
        )
        for path, mask in wrapping.kernels(model).masks.items()
    }
    wrapping.kernels(model).set_masks(masks)
    return setup.compile(model, keras, arguments.jit)


def penalized_model(setup, arguments):
    """Returns a wrapped model with a growing penalty on half of each kernel."""
    model = wrapping.wrap(setup.build(arguments.seed), mask="penalized", verbose=False)
    rng = np.random.default_rng(arguments.seed)
    for mask in wrapping.kernels(model).mask_layers.values():
        mask.choose(rng.random(mask.mask.shape) < 0.5, steps=100_000, epochs=1)
    return setup.compile(model, keras, arguments.jit)


def step_part(setup, arguments):
    """Times the step with all-ones masks and sparse masks, relative to dense."""
    data = setup.data(1, arguments.seed)
    dense = steps_of(dense_model(setup, arguments), data)
    steps = steps_to_fill(dense, arguments.seconds)
    results = {}
    for name, sparsity in (("all_ones", 0.0), (f"sparsity_{SPARSITY}", SPARSITY)):
        other = steps_of(wrapped_model(setup, arguments, sparsity), data)
        results[name] = compare(dense, other, steps, arguments.pairs)
    return results


def learned_part(setup, arguments):
    """Times the step with learned masks, relative to dense."""
    data = setup.data(1, arguments.seed)
    dense = steps_of(dense_model(setup, arguments), data)
    steps = steps_to_fill(dense, arguments.seconds)
    results = {}
    for kind in ("soft", "stochastic", "topk"):
        plain = dense_model(setup, arguments)
        other = steps_of(wrapping.wrap(plain, mask=kind, verbose=False), data)
        results[kind] = compare(dense, other, steps, arguments.pairs)
    return results


def penalized_part(setup, arguments):
    """Times the step with a growing penalty on half of the weights."""
    data = setup.data(1, arguments.seed)
    dense = steps_of(dense_model(setup, arguments), data)
    steps = steps_to_fill(dense, arguments.seconds)
    other = steps_of(penalized_model(setup, arguments), data)
    return {"growing": compare(dense, other, steps, arguments.pairs)}


def floor_part(setup, arguments):
    """Times steps written by hand, relative to a dense one written by hand."""
    data = setup.data(1, arguments.seed)
    jit = dense_model(setup, arguments).jit_compile
    runs = {
        kind: step_floor.steps_of(kind, data, arguments.seed, setup.learning_rate, jit)
        for kind in step_floor.KINDS
    }
    dense = runs.pop("dense")
    steps = steps_to_fill(dense, arguments.seconds)
    return {
        kind: compare(dense, run, steps, arguments.pairs) for kind, run in runs.items()
    }


def distilled_part(setup, arguments):
    """Times the step of the same network with teachers, relative to dense."""
    x, y = setup.data(1, arguments.seed)
    dense = steps_of(dense_model(setup, arguments), (x, y))
    steps = steps_to_fill(dense, arguments.seconds)
    results = {}
    for name, teachers, losses in taught():
        models = [setup.build(arguments.seed + 1 + i) for i in range(teachers)]
        for kind in ("asked", "remembered"):
            student = setup.build(arguments.seed)
            distiller = tt.Distiller(models, student, losses)
            setup.compile(distiller, keras, arguments.jit)
            given = distiller.remember(x) if kind == "remembered" else x
            other = steps_of(distiller, (given, y))
            results[f"{name}, {kind}"] = compare(dense, other, steps, arguments.pairs)
    return results


def taught():
    """Yields a label, the number of teachers, and the distillation losses."""
    kinds = tt.distillation
    answers = kinds.LogitsDistillation(4.0)
    more = kinds.FeatureDistillation(-2), kinds.DistanceDistillation(-2)
    yield "one teacher, answers", 1, [answers]
    yield "three teachers, answers, features, distances", 3, [answers, *more]


def fit_part(setup, arguments):
    dense = dense_model(setup, arguments)
    wrapped = wrapped_model(setup, arguments, SPARSITY)
    return compare_fits(setup, arguments, (dense, ()), (wrapped, ()))


def compare_fits(setup, arguments, dense, other):
    """Compares `fit` of two pairs of a model and its callbacks."""
    data = setup.data(1, arguments.seed)
    runs = [fit_of(model, data, callbacks) for model, callbacks in (dense, other)]
    steps = steps_to_fill(runs[0], 4 * arguments.seconds)
    return compare(*runs, steps, arguments.pairs)


def tfmot_part(setup, arguments):
    """Runs in a separate process, because importing tfmot changes the environment."""
    options = [f"--pairs={arguments.pairs}", f"--seconds={arguments.seconds}"]
    options += [f"--seed={arguments.seed}", f"--jit={arguments.jit}"]
    output = subprocess.run(
        [sys.executable, __file__, "--tfmot-worker", setup.name, *options],
        env=os.environ | {"KERAS_BACKEND": "tensorflow", "TF_USE_LEGACY_KERAS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    return json.loads(output.splitlines()[-1])


def tfmot_worker(setup, arguments):
    import tensorflow_model_optimization as tfmot
    import tf_keras

    pruning = tfmot.sparsity.keras
    plain = setup.build(arguments.seed)
    dense = setup.compile(twin(plain), tf_keras, arguments.jit)
    schedule = pruning.ConstantSparsity(0.5, begin_step=0, frequency=100)
    pruned = pruning.prune_low_magnitude(twin(plain), pruning_schedule=schedule)
    setup.compile(pruned, tf_keras, arguments.jit)
    callbacks = [pruning.UpdatePruningStep()]
    return compare_fits(setup, arguments, (dense, ()), (pruned, callbacks))


def twin(model):
    """Rebuilds a functional model in tf_keras, layer by layer."""
    import tf_keras

    kept = (
        *("name", "units", "filters", "kernel_size", "pool_size", "strides"),
        *("padding", "activation", "use_bias", "momentum", "epsilon"),
    )
    image = tf_keras.Input(model.input_shape[1:])
    tensors = {id(model.inputs[0]): image}
    for layer in model.layers[1:]:
        config = {k: v for k, v in layer.get_config().items() if k in kept}
        made = getattr(tf_keras.layers, type(layer).__name__)(**config)
        inputs = keras.tree.map_structure(lambda t: tensors[id(t)], layer.input)
        tensors[id(layer.output)] = made(inputs)
    copy = tf_keras.Model(image, tensors[id(model.outputs[0])])
    if copy.count_params() != model.count_params():
        raise RuntimeError(
            f"The tf_keras copy of {model.name!r} has a different number of weights."
        )
    return copy


class Clock(keras.callbacks.Callback):
    """Records when the batches of each epoch begin and end."""

    def __init__(self):
        super().__init__()
        self.begins = []
        self.ends = []

    def on_epoch_begin(self, epoch, logs=None):
        self.begins.append([])
        self.ends.append([])

    def on_train_batch_begin(self, batch, logs=None):
        self.begins[-1].append(time.perf_counter())

    def on_train_batch_end(self, batch, logs=None):
        # JAX runs the step in the background; reading the loss waits for it.
        float(logs["loss"])
        self.ends[-1].append(time.perf_counter())


def turn_time(setup, arguments):
    """Times the gap between a search's rounds and between epochs of a dense fit."""
    search = tt.IMP(rounds=arguments.rounds, epochs_per_round=1, rate=0.2)
    wrapped = wrapped_model(setup, arguments, sparsity=0.0)
    dense = dense_model(setup, arguments)
    steps = arguments.steps_per_round
    with_search = gaps(wrapped, setup, arguments, search.epochs, steps, [search])
    without = gaps(dense, setup, arguments, search.epochs, steps, [])
    return {"search": with_search, "dense": without, "steps_per_round": steps}


def gaps(model, setup, arguments, epochs, steps, callbacks):
    # Callbacks run in order. The time from the first callback's batch end to the last
    # callback's batch begin thus covers everything between two batches.
    first, last = Clock(), Clock()
    model.fit(
        *setup.data(steps, arguments.seed),
        batch_size=setup.batch_size,
        epochs=epochs,
        verbose=0,
        callbacks=[first, *callbacks, last],
    )
    each = float(np.median(np.concatenate([np.diff(ends) for ends in first.ends])))
    turns = list(zip(first.ends, last.begins[1:], first.ends[1:], strict=False))
    waits = np.array([begins[0] - ends[-1] for ends, begins, _ in turns])
    steps = np.array([ends[0] - begins[0] for _, begins, ends in turns])
    return {
        "gap_steps": summary(waits / each),
        "gap_seconds": waits.tolist(),
        # This would show a step that is retraced in each round.
        "first_step_steps": summary(steps / each),
        "seconds_per_step": each,
    }


RUN = {
    "step": step_part,
    "learned": learned_part,
    "penalized": penalized_part,
    "floor": floor_part,
    "distilled": distilled_part,
    "fit": fit_part,
    "tfmot": tfmot_part,
    "turn": turn_time,
}


# The command.


def parse(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--models", nargs="+", choices=SETUPS, default=list(SETUPS))
    add("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to run")
    add("--pairs", type=int, default=20, help="pairs per comparison")
    add("--seconds", type=float, default=0.5, help="seconds per timing; fit: 4x")
    add("--rounds", type=int, default=2, help="rounds of the search for `turn`")
    add("--steps-per-round", type=int, default=30)
    add("--jit", choices=("auto", "true", "false"), default="auto")
    add("--seed", type=int, default=0)
    add("--quick", action="store_true", help="smoke test; the numbers mean nothing")
    add(
        "--out",
        type=pathlib.Path,
        help="default: results/step_time_<backend>.json, "
        "with --jit true results/step_time_<backend>_with_xla.json",
    )
    add("--tfmot-worker", choices=SETUPS, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.jit == "false" and keras.config.backend() == "jax":
        parser.error(
            "Received: --jit false on JAX, whose steps would run operation by "
            "operation. Use --jit true, or KERAS_BACKEND=tensorflow."
        )
    if arguments.quick:
        arguments.seconds = 0.0
        arguments.steps_per_round = 3
    return arguments


def origin(arguments, script="step_time.py"):
    """Returns what is needed to reproduce the measurement."""
    return {
        "command": " ".join([f"python benchmarks/{script}", *sys.argv[1:]]),
        "backend": keras.config.backend(),
        "quick": arguments.quick,
        "jit_compile": arguments.jit,
        "seed": arguments.seed,
        "date": datetime.date.today().isoformat(),
        "machine": {
            "cpus": os.cpu_count(),
            "cpus_usable": len(os.sched_getaffinity(0)),
            "architecture": platform.machine(),
            "system": platform.system(),
        },
        "versions": {
            "python": platform.python_version(),
            "tf_tickets": tt.__version__,
            **{name: _version(name) for name in PACKAGES},
        },
    }


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def report(name, part, results):
    """Prints one line per comparison."""
    if part == "turn":
        found = {who: results[who]["gap_steps"] for who in ("search", "dense")}
        unit = "steps"
    elif part in ("step", "learned", "penalized", "floor", "distilled"):
        found, unit = {key: row["ratio"] for key, row in results.items()}, "x dense"
    else:
        found, unit = {part: results["ratio"]}, "x dense"
    for key, row in found.items():
        low, high = row["quartiles"]
        spread = f"{low:.3f} to {high:.3f}"
        print(f"{name:10}{part:10}{key:44}{row['median']:8.3f} {unit}  ({spread})")
    if part == "step":
        seconds = [row["dense_seconds_per_step"]["median"] for row in results.values()]
        print(f"{name:10}{part:10}{'dense':44}{1000 * np.median(seconds):8.3f} ms")


def main(argv=None):
    arguments = parse(argv)
    if arguments.tfmot_worker:
        setup = SETUPS[arguments.tfmot_worker]
        print(json.dumps(tfmot_worker(setup, arguments)))
        return
    results = {**origin(arguments), "models": {}}
    here = pathlib.Path(__file__).parent / "results"
    suffix = "_with_xla" if arguments.jit == "true" else ""
    out = arguments.out or here / f"step_time_{results['backend']}{suffix}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    for name in arguments.models:
        setup = SETUPS[name]
        found = {"batch_size": setup.batch_size, "input_shape": setup.input_shape}
        results["models"][name] = found
        for part in arguments.only:
            if part == "floor" and name != "lenet300":
                continue
            found[part] = RUN[part](setup, arguments)
            report(name, part, found[part])
            out.write_text(json.dumps(results, indent=2) + "\n")
    print(f"Written to {out}")


if __name__ == "__main__":
    main()
