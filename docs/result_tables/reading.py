"""The JSON files of the benchmarks, and how their numbers are written."""

import functools
import json
import pathlib
import sys

RESULTS = pathlib.Path(__file__).resolve().parents[2] / "benchmarks" / "results"
TABLES = {}
NETWORKS = {
    "lenet300": "LeNet-300-100",
    "conv6": "Conv-6",
    "mobilenet": "MobileNetV1",
    "resnet20": "ResNet-20",
    "resnet8": "ResNet-8",
    "mobilenetv2": "MobileNetV2",
    "1024x3": "3 layers of 1024",
    "4096x2": "2 layers of 4096",
}

# The figures that a benchmark compares with stand in its script.
sys.path.append(str(RESULTS.parent))
from mnist_imp import PUBLISHED  # noqa: E402, F401


def table(function):
    """Makes the text that a function returns available to pages, by its name."""
    TABLES[function.__name__.replace("_", "-")] = function
    return function


def exists(name):
    return (RESULTS / f"{name}.json").exists()


@functools.cache
def load(name):
    return json.loads((RESULTS / f"{name}.json").read_text("utf-8"))


def grid(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def percent(value, digits=1):
    return f"{100 * value:.{digits}f} %"


def spread(found, seeds=None):
    """Mean and standard deviation in percent; of one seed its value."""
    mean = f"{100 * found['mean']:.2f}"
    if (seeds or len(found["values"])) == 1:
        return mean
    return f"{mean} ± {100 * found['stdev']:.2f}"


def ratio(found):
    low, high = found["quartiles"]
    return f"{found['median']:.2f} ({low:.2f} to {high:.2f})"


def thousands(count):
    return f"{round(count / 1000):,}"
