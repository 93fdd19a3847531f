"""How cost grows with the size of a model and the number of rounds.

    KERAS_BACKEND=jax python benchmarks/scaling.py model --family mlp --millions 10
    KERAS_BACKEND=jax python benchmarks/scaling.py files --family mlp --millions 10
    KERAS_BACKEND=jax python benchmarks/scaling.py rounds --millions 4
    python benchmarks/scaling.py summary

model    Builds and wraps a model, trains steps of it, selects the tenth of its weights
         that stays, records its state and rewinds it.
files    Saves and loads a ticket, stores the state of a search, and exports the
         pruned model as a Keras file.
rounds   A search of 30 rounds, each an epoch of one step, with a directory: seconds
         between two rounds, bytes on disk and memory, after each round; then how much
         memory it takes to resume it.
summary  Fits exponents in log-log, predicts 100 million weights from 1 and 10 million,
         extrapolates to larger models, and draws results/scaling/scaling.png.

Models: "mlp", three dense layers of equal width, batch 32; "transformer", four blocks
of attention and two dense layers each, 32 tokens, batch 4. SGD with momentum. Memory is
the peak of resident memory during an operation, less that before it (Linux only).
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
RESULTS = HERE / "results" / "scaling"
SIZES = (1, 10, 100)
FAMILIES = ("mlp", "transformer")
SPARSITY, ROUNDS = 0.9, 30
TOKENS, BLOCKS, HEADS = 32, 4, 8
# Weights of larger models, for which the page extrapolates.
LARGER = {"ResNet-50": 25.6e6, "a transformer with a billion weights": 1e9}


# Models.


def mlp(size):
    import keras

    inputs = 256
    # Two square kernels, one of the inputs and one of ten outputs.
    width = round((-(inputs + 10) + ((inputs + 10) ** 2 + 8 * size) ** 0.5) / 4)
    dense = keras.layers.Dense
    layers = [dense(width, activation="relu", name=f"dense{n}") for n in range(3)]
    return keras.Sequential([keras.Input((inputs,)), *layers, dense(10, name="out")])


def transformer(size):
    import keras
    from keras import layers as kl

    # Attention has 4 squares of the width, the dense layers have 8.
    width = HEADS * round((size / BLOCKS / 12) ** 0.5 / HEADS)
    inputs = x = keras.Input((TOKENS, width))
    for block in range(BLOCKS):
        heads = kl.MultiHeadAttention(HEADS, width // HEADS, name=f"attention{block}")
        y = kl.LayerNormalization(name=f"first_norm{block}")(x)
        x = kl.Add()([x, heads(y, y)])
        y = kl.LayerNormalization(name=f"second_norm{block}")(x)
        y = kl.Dense(4 * width, activation="gelu", name=f"up{block}")(y)
        x = kl.Add()([x, kl.Dense(width, name=f"down{block}")(y)])
    return keras.Model(inputs, kl.Dense(10, name="out")(kl.GlobalAveragePooling1D()(x)))


def compiled(model):
    import keras

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss)
    model.optimizer.build(model.trainable_variables)
    return model


def build(options):
    import keras

    keras.utils.set_random_seed(options.seed)
    table = {"mlp": mlp, "transformer": transformer}
    return table[options.family](options.millions * 1_000_000)


def batch(options, model):
    rng = np.random.default_rng(options.seed)
    rows = 32 if options.family == "mlp" else 4
    x = rng.standard_normal((rows, *model.input_shape[1:]), dtype="float32")
    return x, rng.integers(0, 10, rows)


# Measurements.


def memory(name):
    """Returns a number of this process, such as its peak "VmHWM", in bytes."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise ValueError(f"/proc/self/status has no {name}. Received: {platform.system()}")


class Meter:
    """Measures operations: seconds, seconds of CPU, and how far memory rises."""

    def __init__(self):
        self.found = {}

    def __call__(self, name, function, repeats=1):
        rows = []
        for _ in range(repeats):
            before = memory("VmRSS")
            # Resets the peak.
            pathlib.Path("/proc/self/clear_refs").write_text("5")
            wall, cpu = time.perf_counter(), time.process_time()
            result = function()
            rows.append((
                time.perf_counter() - wall,
                time.process_time() - cpu,
                memory("VmHWM") - before,
            ))  # fmt: skip
        columns = zip(*rows, strict=True)
        seconds, cpu, peak = map(statistics.median, columns)
        kept = memory("VmRSS")
        self.found[name] = {
            "seconds": seconds,
            "cpu_seconds": cpu,
            "peak_bytes": max(0, peak),
            "kept_bytes": max(0, kept - before),
            "repeats": repeats,
        }
        print(name, self.found[name], flush=True)
        return result


def measure_model(options):
    import keras

    import tf_tickets as tt
    from tf_tickets.pruning import selection
    from tf_tickets.training import snapshots
    from tf_tickets.training.fidelity import Fidelity
    from tf_tickets.wrapping import to_numpy

    meter = Meter()
    plain = meter("build", lambda: build(options))
    x, y = batch(options, plain)

    def step(model):
        # Waits for the end of the step.
        return float(np.asarray(model.train_on_batch(x, y)))

    repeats = 3 if options.millions >= 100 else 7
    if options.dense:
        compiled(plain)
        meter("first dense step", lambda: step(plain))
        meter("dense step", lambda: step(plain), repeats)
    model = meter("wrap", lambda: tt.wrap(plain, verbose=False))
    compiled(model)
    plain = None
    meter("first step", lambda: step(model))
    meter("step", lambda: step(model), repeats)
    kernels = tt.kernels(model)
    state = meter("record", lambda: snapshots.record(model))
    few = min(repeats, 3)

    def select():
        scores = {p: np.abs(to_numpy(v)) for p, v in kernels.variables.items()}
        keep = round((1 - SPARSITY) * kernels.size)
        return selection.choose(scores, kernels.masks, keep)

    masks = meter("select", select, few)
    meter("set masks", lambda: kernels.set_masks(masks), few)
    exact = Fidelity.get("weights")
    meter("rewind", lambda: snapshots.restore(model, state, exact, state), few)
    weights = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    return {
        "weights": weights,
        "prunable": kernels.size,
        "operations": meter.found,
        "cores": os.cpu_count(),
        "keras": keras.__version__,
    }


def measure_files(options):
    import tf_tickets as tt
    from tf_tickets import files
    from tf_tickets.search.state import SearchState
    from tf_tickets.training import snapshots

    meter = Meter()
    model = compiled(tt.wrap(build(options), verbose=False))
    kernels = tt.kernels(model)
    rng = np.random.default_rng(options.seed)
    masks = {
        path: rng.random(m.shape, dtype="float32") > SPARSITY
        for path, m in kernels.masks.items()
    }
    state = snapshots.record(model)
    ticket = tt.Ticket(masks, snapshots.start_weights(model, state))
    kernels.set_masks(masks)
    sizes = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        folder = pathlib.Path(folder)
        meter("save ticket", lambda: ticket.save(folder / "a.ticket"))
        meter("load ticket", lambda: tt.Ticket.load(folder / "a.ticket", None))
        sizes["ticket"] = (folder / "a.ticket").stat().st_size
        search = SearchState(1, tickets=[ticket], fresh=state, reached=state)

        def store():
            content, arrays = search.pack(model)
            files.write(folder / "search.state", "search", content, arrays)

        meter("save search", store)
        sizes["search"] = (folder / "search.state").stat().st_size
        (folder / "search.state").unlink()
        if not options.skip_export:
            plain = tt.strip(model)
            out = folder / "a.keras"
            meter("export", lambda: tt.export(plain, out, verify=False))
            sizes["export"] = out.stat().st_size
    weights = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    return {"weights": weights, "operations": meter.found, "file_bytes": sizes}


def measure_rounds(options):
    import gc

    import keras

    import tf_tickets as tt

    base = memory("VmRSS")
    x, y = batch(options, build(options))
    data = (x, y), (x, y)
    rows = []

    class Between(keras.callbacks.Callback):
        """Measures what happens between the last step of a round and the next one."""

        changes_results = False
        ended = None

        def on_train_batch_end(self, number, logs=None):
            self.ended = time.perf_counter(), time.process_time()
            pathlib.Path("/proc/self/clear_refs").write_text("5")

        def on_train_batch_begin(self, number, logs=None):
            if self.ended is None:
                return
            seconds = time.perf_counter() - self.ended[0]
            cpu = time.process_time() - self.ended[1]
            gc.collect()
            rows.append({
                "round": len(rows) + 1,
                "seconds": seconds,
                "cpu_seconds": cpu,
                "memory_bytes": memory("VmRSS"),
                "peak_bytes": memory("VmHWM"),
                "disk_bytes": sum(f.stat().st_size for f in folder.glob("*")),
            })  # fmt: skip

    def find(callbacks=()):
        search = tt.IMP(ROUNDS, 1, 1 - (1 - 0.99) ** (1 / ROUNDS), monitor="loss")
        return search, tt.find_tickets(
            lambda: compiled(build(options)),
            data,
            search,
            folder,
            options.seed,
            batch_size=len(y),
            callbacks=callbacks,
            verbose=0,
        )

    meter = Meter()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        folder = pathlib.Path(folder)
        held = meter("search", lambda: find([Between()]))
        size = sum(mask.size for mask in held[1][0].masks.values())
        del held
        gc.collect()
        again = meter("resume", find)
    return {
        "weights": size,
        "base_bytes": base,
        "rounds": rows,
        "operations": meter.found,
        "tickets": len(again[1]),
    }


# Runs, and the summary.


def name_of(what, family, millions):
    return f"{what}-{family}-{millions}"


def run(options):
    from tf_tickets.environment import versions

    name = name_of(options.what, options.family, options.millions)
    out = options.out or RESULTS / f"{name}.json"
    if out.exists() and not options.again:
        print(f"{out} exists; --again measures it anew")
        return
    # So that no operation pays for an import.
    import keras  # noqa: F401

    import tf_tickets  # noqa: F401

    # Before anything is measured, so that it is the load by others.
    before = os.getloadavg()[0]
    functions = {"model": measure_model, "files": measure_files}
    found = {**functions, "rounds": measure_rounds}[options.what](options)
    content = {
        "what": options.what,
        "family": options.family,
        "millions": options.millions,
        "command": f"python benchmarks/scaling.py {options.what} --family "
        f"{options.family} --millions {options.millions}",
        **found,
        "seed": options.seed,
        "versions": versions(),
        "machine": {"system": platform.platform(), "cores": os.cpu_count()},
        "load_before": before,
        "load": os.getloadavg()[0],
        "date": datetime.now(UTC).date().isoformat(),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(content, indent=1) + "\n")


def main(argv):
    options = parser().parse_args(argv)
    if options.what == "summary":
        import scaling_summary

        scaling_summary.write(RESULTS)
        return
    run(options)


def parser():
    found = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = found.add_argument
    add("what", choices=("model", "files", "rounds", "summary"))
    add("--family", choices=FAMILIES, default="mlp")
    add("--millions", type=int, default=1, help="weights of the model, in millions")
    add("--dense", action="store_true", help="measure steps of the plain model too")
    add("--skip-export", action="store_true", help="it takes minutes of large models")
    add("--seed", type=int, default=0)
    add("--folder", help="where files are written; by default a temporary folder")
    add("--out", type=pathlib.Path, help="by default in results/scaling")
    add("--again", action="store_true", help="measure it anew")
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
