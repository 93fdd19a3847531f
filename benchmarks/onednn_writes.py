"""Looks for writes past the end of TensorFlow's buffers while ResNet-8 trains.

    KERAS_BACKEND=tensorflow python benchmarks/onednn_writes.py

oneDNN, which TensorFlow uses for convolutions on a CPU, writes past the end of a buffer
in the gradient of a strided convolution of one pixel with few input channels
(github.com/uxlfoundation/oneDNN/issues/6035). The shortcuts of ResNet-8 are such
convolutions. Each case runs in a process of its own in which every tensor and work
buffer lies in front of a page that cannot be written (`guard_pages.c`, which gcc must
be able to compile; Linux):

- "gradient": the gradient of one such convolution, by its number of input channels.
- "training": four steps of ResNet-8 by the recipe with masks that GradualPruning sets,
  or with soft masks, the last step with a smaller batch; then an evaluation. Random
  images, batches of 128 and widths as in `cifar10.py`, without XLA and, the narrower
  ones, with it.

oneDNN is switched on (`TF_ENABLE_ONEDNN_OPTS=1`), also where it is not the default.
The kernels that it chooses depend on the processor, and so does what is found.
"""

import argparse
import datetime
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
CHANNELS = (1, 4, 7, 8, 11, 15, 16)
WIDTHS = (1.0, 45 / 64, 29 / 64, 20 / 64, 14 / 64)
BATCH = 128
STEPS = 4
REST = 72


def gradient(channels):
    import tensorflow as tf

    images = tf.random.normal((48, 32, 32, channels))
    errors = tf.random.normal((48, 16, 16, 2 * channels))
    for _ in range(3):
        tf.raw_ops.Conv2DBackpropFilter(
            input=images,
            filter_sizes=(1, 1, channels, 2 * channels),
            out_backprop=errors,
            strides=[1, 2, 2, 1],
            padding="SAME",
        )


def training(width, mask, xla):
    import keras
    import numpy as np

    import tf_tickets as tt

    keras.utils.set_random_seed(0)
    model = tt.recipes.build(
        "resnet8", (32, 32, 3), 10, STEPS, 1, width=width, jit_compile=xla
    )
    model = tt.wrap(model, mask=mask, verbose=False)
    rng = np.random.default_rng(0)
    count = BATCH * (STEPS - 1) + REST
    images = rng.normal(size=(count, 32, 32, 3)).astype("float32")
    labels = np.arange(count) % 10
    callbacks = []
    if mask == "fixed":
        schedule = tt.schedules.PolynomialDecay(0.0, 0.8, 1, 3, frequency=1)
        callbacks = [tt.GradualPruning(schedule)]
    past = model.fit(
        images,
        labels,
        batch_size=BATCH,
        callbacks=callbacks,
        validation_data=(images[: BATCH + 8], labels[: BATCH + 8]),
        verbose=0,
    ).history
    for name in ("loss", "val_loss"):
        if not np.isfinite(past[name][-1]):
            raise SystemExit(f"{name} is {past[name][-1]}: unwritten memory was read")


def cases():
    """Returns what is run: the name of a function and its arguments."""
    for channels in CHANNELS:
        yield "gradient", {"channels": channels}
    yield "training", {"width": 1.0, "mask": "soft", "xla": False}
    for width in WIDTHS:
        yield "training", {"width": width, "mask": "fixed", "xla": False}
    for width in WIDTHS[1:]:
        yield "training", {"width": width, "mask": "fixed", "xla": True}


def outcome(library, case):
    """Returns how the process of a case ended."""
    environment = {
        **os.environ,
        "LD_PRELOAD": str(library),
        "TF_ENABLE_ONEDNN_OPTS": "1",
        "TF_NUM_INTRAOP_THREADS": "1",
    }
    ended = subprocess.run(
        [sys.executable, __file__, "--case", json.dumps(case)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    told = [line for line in ended.stderr.splitlines() if "guard_pages: " in line]
    if ended.returncode == 0:
        counts = [int(word) for word in told[-1].split() if word.isdigit()]
        if not counts[1]:
            raise SystemExit(f"{case}: no tensor was guarded:\n{told[-1]}")
        return {"outcome": "clean", "buffers": counts[0], "tensors": counts[1]}
    if ended.returncode == -signal.SIGSEGV:
        return {"outcome": "wrote past the end"}
    if ended.returncode == -signal.SIGABRT and told and " wrote " in told[-1]:
        return {"outcome": told[-1].split("guard_pages: ")[1]}
    raise SystemExit(f"{case} failed ({ended.returncode}):\n{ended.stderr[-3000:]}")


def compiled(folder):
    """Returns the path of the compiled guard."""
    library = pathlib.Path(folder) / "guard_pages.so"
    source = HERE / "guard_pages.c"
    options = ["-O2", "-shared", "-fPIC", "-o", library, source, "-ldl", "-lpthread"]
    subprocess.run(["gcc", *options], check=True)
    return library


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", help="used by the script: one case, in this process")
    parser.add_argument(
        "--out", type=pathlib.Path, default=HERE / "results" / "onednn_writes.json"
    )
    options = parser.parse_args()
    if options.case:
        kind, arguments = json.loads(options.case)
        return {"gradient": gradient, "training": training}[kind](**arguments)

    from cifar10_study import cpu_model

    from tf_tickets.environment import versions

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        library = compiled(folder)
        for kind, arguments in cases():
            found = outcome(library, (kind, arguments))
            rows.append({"case": kind, **arguments, **found})
            print(rows[-1], flush=True)
    content = {
        "command": "KERAS_BACKEND=tensorflow python benchmarks/onednn_writes.py",
        "machine": {"cores": os.cpu_count(), "cpu": cpu_model()},
        "versions": versions(),
        "date": f"{datetime.date.today():%Y-%m-%d}",
        "rows": rows,
    }
    options.out.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
