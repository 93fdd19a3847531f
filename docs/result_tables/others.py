"""Results beside those of other libraries."""

from result_tables.reading import (
    PUBLISHED,
    grid,
    load,
    percent,
    spread,
    table,
    thousands,
)

SIDES = "ours", "theirs"


@table
def openlth():
    """Times of whole searches, and the test accuracies of their last levels."""
    rows = [
        [
            *(f"{pair[side]:.1f}" for side in SIDES),
            f"{pair['ratio']:.2f}",
            *(f"{100 * pair[f'{side}_test_accuracy'][-1]:.2f}" for side in SIDES),
        ]
        for pair in load("against_openlth")["pairs"]
    ]
    head = ["tf_tickets, seconds", "OpenLTH, seconds", "ratio"]
    last = "accuracy of the last level, %"
    return grid([*head, f"tf_tickets, {last}", f"OpenLTH, {last}"], rows)


_TFMOT_FILES = {
    "theirs": {
        "`.h5`, gzip": "h5_gz",
        "`.tflite`, gzip": "tflite_float32_gz",
        "`.tflite` with 8-bit weights, gzip": "tflite_dynamic_gz",
    },
    "ours": {
        "`.keras` of `tt.export`": "keras",
        "`.tflite` of `tt.export`, gzip": "tflite_float32_gz",
        "`.tflite` with 8-bit weights of `tt.export`, gzip": "tflite_dynamic_gz",
    },
}


@table
def tfmot_example():
    """The documented example of tensorflow-model-optimization, there and here."""
    found = load("tfmot_example/mnist")["rows"]
    sides = [
        ("tfmot and tf_keras", "theirs", [row["theirs"] for row in found]),
        ("`tf_tickets.tfmot`", "ours", [row["ours"] for row in found]),
        ("tfmot, converted", "ours", [row["converted"] for row in found]),
    ]
    head = ["", *(name for name, *_ in sides)]

    def line(label, cell):
        return [label, *(" / ".join(map(cell, rows)) for _, _, rows in sides)]

    def number(row, name, form):
        return form.format(row[name]) if name in row else "–"

    def percentage(row, name, digits):
        return f"{100 * row[name]:.{digits}f}" if name in row else "–"

    def size(row, key, part):
        return f"{row[part][key]:,}" if part in row else "–"

    rows = [
        line("accuracy before, %", lambda r: percentage(r, "dense_accuracy", 2)),
        line("accuracy pruned, %", lambda r: percentage(r, "accuracy", 2)),
        line("zeros in the kernels, %", lambda r: percentage(r, "sparsity", 3)),
        line("seconds of pruning", lambda r: number(r, "seconds", "{:.1f}")),
    ]
    for theirs, ours in zip(*(f.items() for f in _TFMOT_FILES.values()), strict=True):
        keys = {"theirs": theirs[1], "ours": ours[1]}
        for state, part in (("dense", "dense_bytes"), ("pruned", "bytes")):
            cells = [
                " / ".join(size(row, keys[side], part) for row in of_seeds)
                for _, side, of_seeds in sides
            ]
            rows.append([f"bytes, {state}: {theirs[0]}; here {ours[0]}", *cells])
    return grid(head, rows)


@table
def tfmot_masks():
    """How many weights the two libraries prune otherwise, from the same weights."""
    found = [row["same_masks"] for row in load("tfmot_example/mnist")["rows"]]
    rows = [
        [
            row["seed"],
            f"{same['weights']:,}",
            same["masked_otherwise"],
            f"{same['largest_difference']:.1e}" if same["largest_difference"] else "0",
        ]
        for row, same in zip(load("tfmot_example/mnist")["rows"], found, strict=True)
    ]
    head = ["seed", "weights in kernels", "masked otherwise", "largest difference"]
    return grid(head, rows)


@table
def others():
    """Results beside others' for README; in some of them we are behind."""
    head = ["what", "here", "the other", "which other", "results page"]
    return grid(head, [row() for row in _OTHERS])


def _page(name):
    return f"[{name}](docs/results/{name}.md)"


def _other_openlth():
    ratios = [pair["ratio"] for pair in load("against_openlth")["pairs"]]
    between = f"{min(ratios):.2f} to {max(ratios):.2f} of its time (JAX)"
    what = "Whole IMP search, LeNet-300-100 on MNIST, 2 cores"
    return [what, between, "1", "OpenLTH (PyTorch)", _page("openlth")]


def _other_torch():
    rounds = load("peers/lenet300")["rounds"]
    cells = []
    for backend in ("JAX", "TensorFlow"):
        ratios = [
            r[f"tf_tickets on {backend}"]["seconds"] / r["torch"]["seconds"]
            for r in rounds
        ]
        cells.append(f"{min(ratios):.2f} to {max(ratios):.2f} ({backend})")
    what = "The same beside a loop written for it"
    return [what, ", ".join(cells), "1", "PyTorch", _page("peers")]


def _other_replication():
    row = next(r for r in load("mnist_imp")["rows"] if r["round"] == 12)
    what = (
        f"IMP ticket, LeNet-300-100 on MNIST, {percent(1 - row['sparsity'])} of weights"
    )
    cells = f"{spread(row['ticket'])} %", f"{PUBLISHED[12][0]:.2f} %"
    return [what, *cells, "published replication, twice the epochs", _page("imp")]


def _other_tfmot():
    found = load("step_time_tensorflow_fit_lenet300")["models"]["lenet300"]
    cells = [
        f"{found[part]['ratio']['median']:.2f} × dense" for part in ("fit", "tfmot")
    ]
    what = "A masked training step, each beside its own dense one, LeNet-300-100"
    return [what, *cells, "tensorflow-model-optimization", _page("step-time")]


def _size(network, sparsity):
    rows = load("export_sizes")["rows"]
    return next(
        r for r in rows if r["network"] == network and r["sparsity"] == sparsity
    )


def _other_saved_model():
    row = _size("mobilenet", 0.95)
    cells = [f"{thousands(row[k])} kB" for k in ("saved_model", "saved_model_keras")]
    what = "SavedModel of MobileNetV1, 95 % zeros"
    return [what, *cells, "Keras's `export`", _page("export-size")]


def _other_gzip():
    row = _size("conv6", 0.5)
    fields = "tflite_gzipped", "tflite_dense_gzipped"
    cells = [f"{thousands(row[field])} kB" for field in fields]
    what = "Gzipped `.tflite` of Conv-6, 50 % zeros"
    return [what, *cells, "the dense file, gzipped", _page("export-size")]


def _other_flash():
    found = load("micro/mlperf_tiny")
    key = ["files", "vww_96_int8.tflite", None, "names kept"]
    row = next(r for r in found["rows"] if r["key"] == key)
    ours = f"{thousands(row['flash']['encoded'] + found['decoder_code'])} kB"
    what = "Flash of the published `vww_96_int8.tflite`, same predictions, with decoder"
    theirs = f"{thousands(row['published'])} kB"
    return [what, ours, theirs, "MLPerf Tiny", _page("micro")]


def _other_latency():
    rows = load("export_latency")["rows"]
    wanted = {"network": "1024x3", "structure": "unstructured", "sparsity": 0.9}
    row = next(r for r in rows if wanted.items() <= r.items())
    what = "Call of a `.tflite`, 3 layers of 1024, 90 % single zeros, batch 32"
    cells = f"{row['ratios']['32']['median']:.2f}", "1"
    return [what, *cells, "the dense file, LiteRT", _page("export-latency")]


_OTHERS = (
    *(_other_openlth, _other_torch, _other_replication, _other_tfmot),
    *(_other_saved_model, _other_gzip, _other_flash, _other_latency),
)
