"""Measures the latency of networks without some of their channels.

    KERAS_BACKEND=tensorflow python benchmarks/shrink_latency.py

Networks with random weights lose 30, 50 and 70 % of their multiply-adds: channels of
the smallest magnitude, at any width or at multiples of 8. `tt.compact` makes them
smaller. Each is compared with the whole network in four runtimes:

keras        `model.predict` of one example
saved_model  the exported SavedModel, batch size 1
tflite       LiteRT, float32, one thread, batch size 1
int8         LiteRT, weights and activations of 8 bits, one thread, batch size 1

Calls of the two are interleaved in one process, in changing order, and a pair gives one
ratio. TensorFlow uses one thread. "saved" is the saved time divided by the saved
multiply-adds: (1 - ratio) / (1 - macs).

The JSON file is written after every row, and a picture beside it at the end. Rows that
are in it are not measured again, unless `--again` is given, so a run may be
interrupted. `--networks`, `--runtimes` and `--limit` measure a part.
"""

import argparse
import gc
import json
import os
import pathlib
import platform
import tempfile
import time

import keras
import numpy as np

import tf_tickets as tt
from tf_tickets.environment import versions

HERE = pathlib.Path(__file__).parent
REMOVED = (0.3, 0.5, 0.7)
ROUNDING = (1, 8)


def mobilenet_v2():
    return keras.applications.MobileNetV2((96, 96, 3), weights=None)


NETWORKS = {
    "resnet8": tt.models.resnet8,
    "conv6": tt.models.conv6,
    "mobilenetv2": mobilenet_v2,
}


def without_channels(model, removed, round_to):
    """Returns a smaller network, and the fraction of each cost that remains."""
    model = tt.wrap(model, structure=tt.Channels(round_to=round_to), verbose=False)
    search = tt.PruneAtInit(target={"macs": 1 - removed}, epochs=1, monitor="loss")
    search.prune(model)
    small, report = tt.compact(model, return_report=True)
    fractions = {
        name: getattr(report.compact, name) / getattr(report.dense, name)
        for name in ("macs", "params", "bytes")
    }
    return small, {**fractions, "difference": report.difference}


# Each returns a function without arguments that runs one example.


def in_keras(model, folder, x):
    return lambda: model.predict(x[:1], verbose=0)


def in_saved_model(model, folder, x):
    import tensorflow as tf

    model.export(folder / "saved", format="tf_saved_model", verbose=False)
    loaded = tf.saved_model.load(folder / "saved")
    example = tf.constant(x[:1])
    # The function does not keep the model that it belongs to.
    return lambda: loaded.serve(example).numpy()


def in_tflite(model, folder, x, precision="float32"):
    from ai_edge_litert.interpreter import Interpreter

    path = folder / f"{precision}.tflite"
    tt.export(model, path, precision=precision, data=x, verify=False)
    interpreter = Interpreter(str(path), num_threads=1)
    (of_input,) = interpreter.get_input_details()
    interpreter.resize_tensor_input(of_input["index"], x[:1].shape)
    interpreter.allocate_tensors()
    example = x[:1].astype(of_input["dtype"])

    def invoke():
        interpreter.set_tensor(of_input["index"], example)
        interpreter.invoke()

    return invoke


def in_int8(model, folder, x):
    return in_tflite(model, folder, x, "int8")


RUNTIMES = {
    "keras": in_keras,
    "saved_model": in_saved_model,
    "tflite": in_tflite,
    "int8": in_int8,
}
TITLES = {
    "keras": "Keras predict",
    "saved_model": "SavedModel",
    "tflite": "TFLite, float32",
    "int8": "TFLite, int8",
}
COLORS = ("#999999", "#d9730d", "#0b5fa5", "#3a8f5c")


def compare(whole, small, pairs, seconds):
    """Returns seconds per call of both, and the ratios of interleaved pairs."""
    for call in (whole, small):
        for _ in range(5):
            call()
    times = max(1, round(seconds / per_call(whole, 3)))
    ratios, costs = [], {whole: [], small: []}
    for pair in range(pairs):
        for call in (whole, small) if pair % 2 else (small, whole):
            costs[call].append(per_call(call, times))
        ratios.append(costs[small][-1] / costs[whole][-1])
    return {
        "pairs": pairs,
        "calls_per_pair": times,
        "milliseconds": [1000 * float(np.median(costs[c])) for c in (whole, small)],
        "ratio": {
            "median": float(np.median(ratios)),
            "quartiles": [float(q) for q in np.quantile(ratios, (0.25, 0.75))],
        },
    }


def per_call(call, times):
    began = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - began) / times


def measure(options, network, removed, round_to, runtimes):
    """Yields a row for each runtime."""
    keras.utils.set_random_seed(options.seed)
    whole = NETWORKS[network]()
    small, fractions = without_channels(whole, removed, round_to)
    # Wrapping shares the variables, and pruning has set some of them to zero.
    keras.utils.set_random_seed(options.seed)
    whole = NETWORKS[network]()
    rng = np.random.default_rng(options.seed)
    x = rng.normal(size=(32, *whole.input_shape[1:])).astype("float32")
    for runtime in runtimes:
        with tempfile.TemporaryDirectory() as folder:
            calls = []
            for name, model in (("whole", whole), ("small", small)):
                place = pathlib.Path(folder) / name
                place.mkdir()
                calls.append(RUNTIMES[runtime](model, place, x))
            found = compare(*calls, options.pairs, options.seconds)
            saved = (1 - found["ratio"]["median"]) / (1 - fractions["macs"])
        yield {
            "network": network,
            "removed": removed,
            "round_to": round_to,
            "runtime": runtime,
            **fractions,
            **found,
            "saved": saved,
        }


def key(row):
    return tuple(row[n] for n in ("network", "removed", "round_to", "runtime"))


def plan(options, rows):
    """Yields the settings of networks, and the runtimes that have no row."""
    done = set() if options.again else {key(row) for row in rows}
    for network in options.networks:
        for removed in options.removed:
            for round_to in options.rounding:
                setting = network, removed, round_to
                left = [r for r in options.runtimes if (*setting, r) not in done]
                if left:
                    yield *setting, left


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    add("--runtimes", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    add("--removed", nargs="+", type=float, default=REMOVED)
    add("--rounding", nargs="+", type=int, default=ROUNDING)
    add("--pairs", type=int, default=55)
    add("--seconds", type=float, default=0.02, help="time of one half of a pair")
    add("--limit", type=int, help="measure at most so many small networks")
    add("--again", action="store_true", help="measure what is in the file, too")
    add("--seed", type=int, default=0)
    add("--out", type=pathlib.Path, default=HERE / "results" / "shrink_latency.json")
    options = parser.parse_args()
    one_thread()
    rows = []
    if options.out.exists():
        rows = json.loads(options.out.read_text())["rows"]
    for number, setting in enumerate(list(plan(options, rows))):
        if number == options.limit:
            break
        for row in measure(options, *setting):
            rows = [r for r in rows if key(r) != key(row)] + [row]
            print(json.dumps(row), flush=True)
            options.out.write_text(json.dumps(content(options, rows), indent=1))
        keras.utils.clear_session()
        gc.collect()
    draw(rows, options.out.with_suffix(".png"))


def draw(rows, path):
    """Draws the time of a call against the multiply-adds, a panel for each network."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 3.6), layout="constrained")
    panels = figure.subplots(1, len(NETWORKS), sharey=True)
    for axes, network in zip(panels, NETWORKS, strict=True):
        axes.plot((0, 100), (0, 100), color="#999999", linestyle=(0, (6, 3)))
        for (runtime, title), color in zip(TITLES.items(), COLORS, strict=True):
            for round_to, fill in ((1, "none"), (8, "full")):
                points = [
                    (100 * row["macs"], 100 * row["ratio"]["median"])
                    for row in rows
                    if key(row)[0] == network and key(row)[2:] == (round_to, runtime)
                ]
                style = {"marker": "o", "fillstyle": fill, "color": color}
                label = title if round_to == 8 else None
                if points:
                    axes.plot(*zip(*sorted(points), strict=True), label=label, **style)
        axes.set_title(network, loc="left", fontweight="bold")
        axes.set_xlabel("multiply-adds left (%)")
        axes.set_xlim(20, 100)
        axes.set_ylim(20, 125)
        axes.grid(color="#dddddd", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("time of a call (%)")
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside upper center",
        ncols=len(TITLES),
        frameon=False,
    )
    figure.savefig(path, dpi=150)


def one_thread():
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def content(options, rows):
    place = {name: i for i, name in enumerate([*NETWORKS, *RUNTIMES])}
    order = sorted(rows, key=lambda r: [place.get(part, part) for part in key(r)])
    return {
        "command": "KERAS_BACKEND=tensorflow python benchmarks/shrink_latency.py "
        f"--pairs {options.pairs} --seed {options.seed}",
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "versions": versions(),
        "rows": order,
    }


if __name__ == "__main__":
    main()
