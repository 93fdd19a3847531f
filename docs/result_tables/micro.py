"""Flash and RAM of models in TensorFlow Lite Micro."""

from result_tables.reading import exists, grid, load, percent, table

_NAMES = {
    "resnet8": "ResNet-8",
    "autoencoder": "autoencoder",
    "vww": "MobileNetV1 0.25",
    "wakeword": "wake word",
}
_FILE = "micro/mlperf_tiny"
_ZEROS = (0.0, 0.5, 0.8, 0.9)


def _rows(kind):
    rows = load(_FILE)["rows"] if exists(_FILE) else []
    return [row for row in rows if row["key"][0] == kind]


def _by_sparsity(dense, encoded):
    """A row for each network and its options; functions give the cells."""
    found = {}
    for row in _rows("models"):
        _, network, sparsity, options = row["key"]
        found.setdefault((network, options), {})[sparsity] = row
    rows = []
    for (network, options), by_sparsity in found.items():
        cells = [encoded(by_sparsity[s]) if s in by_sparsity else "" for s in _ZEROS]
        first = dense(next(iter(by_sparsity.values())))
        rows.append([_NAMES[network], options, first, *cells])
    return grid(["network", "options", "dense", *map(_percent, _ZEROS)], rows)


def _percent(sparsity):
    return f"{percent(sparsity, 0)} zeros"


@table
def micro_flash():
    return _by_sparsity(
        lambda row: f"{row['flash']['dense']:,}",
        lambda row: f"{row['flash']['encoded']:,}",
    )


@table
def micro_ram():
    return _by_sparsity(
        lambda row: f"{row['measured']['dense']['tensors']:,}",
        lambda row: f"{row['measured']['encoded']['tensors']:,}",
    )


@table
def micro_files():
    head = ["file", "published", "zeros", "names", "dense", "encoded", "saved"]
    rows = []
    for row in _rows("files"):
        _, name, _, options = row["key"]
        dense, encoded = row["flash"]["dense"], row["flash"]["encoded"]
        ram = [row["measured"][kind]["tensors"] for kind in ("dense", "encoded")]
        rows.append(
            [
                *(f"`{name}`", f"{row['published']:,}", percent(row["zeros"])),
                *(options.removeprefix("names "), f"{dense:,}", f"{encoded:,}"),
                *(percent(1 - encoded / dense), f"{ram[0]:,} -> {ram[1]:,}"),
            ]
        )
    return grid([*head, "RAM of tensors"], rows)


@table
def micro_prediction():
    """Says how far predicted sizes of the arena are from those measured."""
    rows = _rows("models") + _rows("files")
    gaps = [
        abs(row["predicted"][kind] - row["measured"][kind]["tensors"])
        for row in rows
        for kind in ("dense", "encoded")
    ]
    wrong = sum(gap > 0 for gap in gaps)
    return (
        f"The report predicts the RAM of the tensors. In {len(gaps) - wrong} of "
        f"{len(gaps)} files it is exactly what the interpreter reports; the largest "
        f"difference is {max(gaps, default=0):,} bytes."
    )


_RESNET8 = {
    "dense": "dense",
    "unstructured": "half of the single weights",
    "unstructured-65": "65 % of the single weights",
    "unstructured-65-longer": "the same, trained on",
    "channels-params": "channels, half of the parameters",
    "channels-75": "channels, a quarter of the parameters",
    "channels-75-unstructured": "the same, then half of the single weights",
    "narrow": "narrower, from scratch",
}


@table
def micro_resnet8():
    found = load("micro/resnet8")["rows"] if exists("micro/resnet8") else {}
    rows = []
    for name, title in _RESNET8.items():
        if name not in found:
            continue
        row, kept, dropped = _of_resnet8(found[name])
        ram = f"{row['arena']['dense']:,} -> {row['arena']['sparse']:,}"
        accuracies = [f"{100 * found[name][kind]:.2f}" for kind in ("float32", "int8")]
        rows.append([title, *accuracies, kept, dropped, ram])
    head = ["ResNet-8", "float32", "int8", "flash", "flash, names dropped"]
    return grid([*head, "RAM of tensors"], rows)


def _of_resnet8(row):
    sizes = [f"{row[kind]['encoded']:,}" for kind in ("with names", "without names")]
    return row["without names"], *sizes
