"""Size and speed of exported files."""

from result_tables.reading import NETWORKS, grid, load, percent, ratio, table, thousands


def _sizes(columns):
    """Thousands of bytes; `columns` is a dict from a heading to a field."""
    rows = [
        [
            *(NETWORKS[row["network"]], percent(row["sparsity"], 0)),
            *(thousands(row[field]) for field in columns.values()),
        ]
        for row in load("export_sizes")["rows"]
    ]
    return grid(["network", "zeros", *columns], rows)


@table
def export_sizes():
    return _sizes(
        {
            "bound": "bound",
            "SavedModel": "saved_model",
            "Keras's SavedModel": "saved_model_keras",
            "Keras's, gzipped": "saved_model_keras_gzipped",
            "`.keras`": "keras",
            "stock `.keras`": "keras_stored",
        }
    )


@table
def export_sizes_tflite():
    return _sizes(
        {
            "bound": "bound",
            "`.tflite`": "tflite",
            "gzipped": "tflite_gzipped",
            "TFLite's converter": "converter",
            "converter, gzipped": "converter_gzipped",
            "dense, gzipped": "tflite_dense_gzipped",
        }
    )


@table
def export_latency():
    found = {}
    for row in load("export_latency")["rows"]:
        key = row["network"], row["sparsity"]
        found.setdefault(key, {})[row["structure"]] = row["ratios"]
    rows = []
    for (network, sparsity), structures in found.items():
        cells = [
            ratio(structures[kind][batch]) if kind in structures else ""
            for batch in ("1", "32")
            for kind in ("unstructured", "4x1 blocks")
        ]
        rows.append([NETWORKS[network], percent(sparsity, 0), *cells])
    kinds = ("batch 1, single weights", "batch 1, blocks")
    kinds += ("batch 32, single weights", "batch 32, blocks")
    return grid(["network", "zeros", *kinds], rows)


@table
def saved_models():
    head = ["file", "sparsity", "bytes", "gzipped", "test accuracy", "other answers"]
    rows = []
    for example in load("saved_models")["examples"]:
        for row in example["rows"]:
            path = f"`{example['dataset']}-lenet300/{row['file']}`"
            answers = f"{row['other_answers']} of {row['images']:,}"
            rows.append(
                [
                    *(path, percent(example["sparsity"]), f"{row['bytes']:,}"),
                    *(f"{row['gzipped']:,}", percent(row["accuracy"], 2), answers),
                ]
            )
    return grid(head, rows)
