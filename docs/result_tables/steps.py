"""Time of a training step."""

from result_tables.reading import NETWORKS, exists, grid, load, ratio, table


@table
def step_time():
    files = {"TensorFlow": "step_time_tensorflow", "JAX": "step_time_jax"}
    rows = []
    for name in ("lenet300", "conv6", "resnet20"):
        batch = load("step_time_jax")["models"][name]["batch_size"]
        row = [f"{NETWORKS[name]}, batch {batch}"]
        for file in files.values():
            alone = f"{file}_{name}"
            file = alone if exists(alone) else file
            found = load(file)["models"][name]["step"]
            row += [
                ratio(found[kind]["ratio"]) for kind in ("all_ones", "sparsity_0.8")
            ]
        rows.append(row)
    kinds = [
        f"{b}, {kind}" for b in files for kind in ("masks of ones", "sparsity 0.8")
    ]
    return grid(["network", *kinds], rows)


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


def _both_backends(part):
    found = {b: load(f"step_time_{b}_{part}") for b in ("tensorflow", "jax")}
    kinds = found["jax"]["models"]["lenet300"][part]
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
def step_time_distilled():
    return _both_backends("distilled")


@table
def step_time_turn():
    rows = []
    for backend in ("tensorflow", "jax"):
        for name, found in load(f"step_time_{backend}")["models"].items():
            gaps = [
                ratio(found["turn"][who]["gap_steps"]) for who in ("search", "dense")
            ]
            rows.append([backend, NETWORKS[name], *gaps])
    head = ["backend", "network", "between two rounds", "between two epochs, dense"]
    return grid(head, rows)
