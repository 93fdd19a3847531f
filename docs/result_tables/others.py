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


@table
def others():
    """Six results beside others' for README; in some of them we are behind."""
    head = ["what", "here", "the other", "which other", "results page"]
    return grid(head, [row() for row in _OTHERS])


def _page(name):
    return f"[{name}](docs/results/{name}.md)"


def _other_openlth():
    ratios = [pair["ratio"] for pair in load("against_openlth")["pairs"]]
    between = f"{min(ratios):.2f} to {max(ratios):.2f} of its time"
    what = "Whole IMP search, LeNet-300-100 on MNIST, 2 cores"
    return [what, between, "1", "OpenLTH (PyTorch)", _page("openlth")]


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
    what = "Time of a masked training step, LeNet-300-100"
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


def _other_latency():
    rows = load("export_latency")["rows"]
    wanted = {"network": "1024x3", "structure": "unstructured", "sparsity": 0.9}
    row = next(r for r in rows if wanted.items() <= r.items())
    what = "Call of a `.tflite`, 3 layers of 1024, 90 % single zeros, batch 32"
    cells = f"{row['ratios']['32']['median']:.2f}", "1"
    return [what, *cells, "the dense file, LiteRT", _page("export-latency")]


_OTHERS = (
    *(_other_openlth, _other_replication, _other_tfmot, _other_saved_model),
    *(_other_gzip, _other_latency),
)
