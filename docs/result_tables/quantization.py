"""Zeros and sizes after quantization by Keras."""

import json

from result_tables.reading import RESULTS, grid, percent, table

_MODES = {
    "float32": "none (float32)",
    "int8": '`"int8"`',
    "int4": '`"int4"`, groups of 128',
    "int4-channel": '`"int4"` by channel',
    "float8": '`"float8"`',
    "gptq8": "GPTQ, 8 bits",
    "gptq8-symmetric": "GPTQ, 8 bits, symmetric",
    "gptq4": "GPTQ, 4 bits",
    "gptq4-symmetric": "GPTQ, 4 bits, symmetric",
    "awq4": "AWQ, 4 bits",
}
_LORA = {
    "merged": "added to the kernels",
    "masked": "added and masked",
    "trained": "masked and trained 3 epochs",
}


def _mean(rows, name):
    return sum(row[name] for row in rows) / len(rows)


def _rows(part, labels):
    files = sorted((RESULTS / "keras_quantization").glob("*.json"))
    found = [json.loads(file.read_text("utf-8"))[part] for file in files]
    for name, label in labels.items():
        rows = [one[name] for one in found]
        loads = all("bytes" in row for row in rows)
        yield [
            label,
            percent(_mean(rows, "pruned_zero")),
            percent(_mean(rows, "kept_zero"), 2),
            f"{100 * _mean(rows, 'accuracy'):.1f}",
            f"{_mean(rows, 'bytes'):,.0f}" if loads else "cannot be loaded",
        ]


_COLUMNS = ["pruned weights zero", "kept weights zero", "test accuracy", "bytes"]


@table
def quantization():
    return grid(["mode", *_COLUMNS], list(_rows("modes", _MODES)))


@table
def lora():
    return grid(["LoRA weights", *_COLUMNS], list(_rows("lora", _LORA)))
