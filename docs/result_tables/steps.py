"""Time of a training step."""

import functools
import operator
import statistics

from result_tables.reading import NETWORKS, exists, grid, load, ratio, table

STEPS = {
    "TensorFlow": "step_time_tensorflow",
    "TensorFlow, XLA": "step_time_tensorflow_with_xla",
    "JAX": "step_time_jax",
}


def _measured():
    """Returns the models of every column; LeNet-300-100 from a longer run if any."""
    found = {}
    for column, file in STEPS.items():
        files = [name for name in (file, f"{file}_lenet300") if exists(name)]
        models = [load(name)["models"] for name in files]
        found[column] = functools.reduce(operator.or_, models, {})
    return found


def _steps(cells_of, width):
    """Returns a row per network, with the cells of every file; empty: not measured."""
    files = _measured()
    rows = []
    for name in ("lenet300", "conv6", "resnet20", "resnet8"):
        row = [f"{NETWORKS[name]}, batch {files['JAX'][name]['batch_size']}"]
        for models in files.values():
            step = models.get(name, {}).get("step")
            row += cells_of(step) if step else [""] * width
        rows.append(row)
    return rows


@table
def step_time():
    def cells(step):
        return [ratio(step[kind]["ratio"]) for kind in ("all_ones", "sparsity_0.8")]

    head = [
        f"{b}, {kind}"
        for b in _measured()
        for kind in ("masks of ones", "sparsity 0.8")
    ]
    return grid(["network", *head], _steps(cells, 2))


@table
def step_time_milliseconds():
    def cells(step):
        medians = [row["dense_seconds_per_step"]["median"] for row in step.values()]
        milliseconds = 1000 * sum(medians) / len(medians)
        return [f"{milliseconds:.{1 if milliseconds < 100 else 0}f}"]

    return grid(["network", *_measured()], _steps(cells, 1))


@table
def step_time_tfmot():
    rows = []
    for name in ("lenet300", "conv6", "resnet20"):
        found = load(f"step_time_tensorflow_fit_{name}")["models"][name]
        steps = found["fit"]["steps_per_timing"]
        cells = [ratio(found[part]["ratio"]) for part in ("fit", "tfmot")]
        rows.append([NETWORKS[name], *cells, steps])
    head = ["network", "tf_tickets over its dense model"]
    return grid([*head, "tfmot over its dense model", "steps a timing"], rows)


@table
def step_bytes():
    found = load("step_bytes")["bytes"]
    names = {"dense": "dense", "masks": "masks", "growing": "a growing penalty"}
    rows = [
        [label, f"{found[name] / 1e6:.1f}", f"{found[name] / found['dense']:.2f}"]
        for name, label in names.items()
    ]
    return grid(["step", "megabytes", "relative to dense"], rows)


@table
def page_faults():
    rounds = load("page_faults")["rounds"]
    names = {
        "arrays": "arrays, by Keras",
        "feed": "the batches of a search",
        "generator": "the same, after a generator was read",
    }
    rows = []
    for kind, label in names.items():
        runs = [results[kind] for results in rounds]
        ratios = [
            results[kind]["milliseconds"] / results["arrays"]["milliseconds"]
            for results in rounds
        ]
        faults = statistics.median(run["page_faults"] for run in runs)
        shown = " / ".join(f"{ratio:.2f}" for ratio in ratios)
        rows.append([label, f"{faults:.0f}", shown])
    return grid(["`fit` reads", "page faults a step", "time, relative to arrays"], rows)


def _both_backends(part, file=None):
    names = {b: f"step_time_{b}_{file or part}" for b in ("tensorflow", "jax")}
    found = {b: load(name) for b, name in names.items()}
    kinds = found["jax"]["models"]["lenet300"].get(part, ())
    rows = [
        [
            kind,
            *(
                ratio(f["models"]["lenet300"][part][kind]["ratio"])
                for f in found.values()
            ),
        ]
        for kind in kinds
    ]
    return grid(["LeNet-300-100", "TensorFlow", "JAX"], rows)


@table
def step_time_learned():
    return _both_backends("learned")


@table
def step_time_penalized():
    return _both_backends("penalized")


@table
def step_time_floor():
    return _both_backends("floor", "penalized")


@table
def step_time_distilled():
    return _both_backends("distilled")


@table
def step_time_turn():
    rows = []
    for backend in ("tensorflow", "jax"):
        file = f"step_time_{backend}_turn"
        file = file if exists(file) else f"step_time_{backend}"
        for name, found in load(file)["models"].items():
            gaps = [
                ratio(found["turn"][who]["gap_steps"]) for who in ("search", "dense")
            ]
            rows.append([backend, NETWORKS[name], *gaps])
    head = ["backend", "network", "between two rounds", "between two epochs, dense"]
    return grid(head, rows)
