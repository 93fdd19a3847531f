"""A search over JPEG files in folders: memory, and what a kill loses.

    KERAS_BACKEND=tensorflow python benchmarks/streaming.py --work DIR

It draws `--images` JPEG files of `--pixels` x `--pixels` in folders by class, and
searches tickets of a small network on them in processes of their own:

- "memory": the network trains on one batch; its largest resident memory is that of the
  library, the backend and the model.
- "search": IMP from start to end.
- "killed": the same search, ended by SIGKILL in the first epoch after its first ticket
  was stored.
- "resumed": started again until it is complete.

The tickets of "search" and "resumed" are compared bit by bit.
"""

import argparse
import hashlib
import json
import os
import pathlib
import platform
import signal
import subprocess
import sys
import time

import keras
import numpy as np

import tf_tickets as tt
from tf_tickets.environment import versions

HERE = pathlib.Path(__file__).parent
CLASSES = 10
BATCH = 64
PAUSE = 0.2


def write_images(folder, count, pixels):
    """Writes JPEG files: stripes whose direction is the class, in random colours."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:pixels, :pixels] / pixels
    for number in range(count):
        label = number % CLASSES
        place = folder / f"class_{label}" / f"{number:06}.jpg"
        if place.exists():
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        angle = np.pi * label / CLASSES
        along = rows * np.sin(angle) + columns * np.cos(angle)
        waves = np.sin(2 * np.pi * (rng.uniform(4, 8) * along + rng.uniform()))
        image = 128 + 60 * waves[..., None] * rng.uniform(-1, 1, 3)
        image = image + rng.normal(0, 20, (pixels, pixels, 3))
        keras.utils.save_img(place, np.clip(image, 0, 255), scale=False)


def build(size):
    """Returns a small convolutional network for images of size x size."""
    layers = [keras.Input((size, size, 3))]
    for filters in (16, 32, 64):
        layers += [
            keras.layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
        ]
    layers += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(CLASSES)]
    model = keras.Sequential(layers)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    return model


def train_one_batch(options):
    x = np.zeros((BATCH, options.size, options.size, 3), "float32")
    build(options.size).fit(x, np.zeros(BATCH, "int32"), batch_size=BATCH, verbose=0)


def search(options):
    data = tt.datasets.load_images(
        options.work / "images", (options.size, options.size), BATCH
    )
    imp = tt.IMP(rounds=2, epochs_per_round=1, rate=0.5, monitor="val_accuracy")
    tt.find_tickets(lambda: build(options.size), data, imp, options.folder, verbose=0)


def started(options, job, folder):
    command = [sys.executable, __file__, "--job", job, "--folder", str(folder)]
    command += ["--work", str(options.work), "--size", str(options.size)]
    return subprocess.Popen(command)


def watched(process, stop=lambda: False):
    """Waits for a process, or kills it; returns seconds and its largest memory."""
    began, peak = time.monotonic(), 0
    while process.poll() is None:
        peak = max(peak, resident(process.pid))
        if stop():
            process.send_signal(signal.SIGKILL)
            process.wait()
        time.sleep(PAUSE)
    return {
        "seconds": round(time.monotonic() - began, 1),
        "peak_megabytes": round(peak / 2**20),
        "exit": process.returncode,
    }


def resident(pid):
    try:
        pages = pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]
    except FileNotFoundError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def after_first_ticket(folder, seconds):
    """Returns a function that is true some time after the first ticket was stored."""
    seen = []

    def stop():
        if not seen and (folder / "round_01.ticket").exists():
            seen.append(time.monotonic())
        return bool(seen) and time.monotonic() - seen[0] > seconds

    return stop


def digests(folder):
    return {
        ticket.name: hashlib.sha256(ticket.read_bytes()).hexdigest()
        for ticket in sorted(folder.glob("*.ticket"))
    }


def measured(options):
    images = options.work / "images"
    write_images(images, options.images, options.pixels)
    files = list(images.rglob("*.jpg"))
    whole, halted = options.work / "whole", options.work / "halted"
    runs = {
        "memory": watched(started(options, "memory", whole)),
        "search": watched(started(options, "search", whole)),
    }
    stop = after_first_ticket(halted, options.kill_after)
    runs["killed"] = watched(started(options, "search", halted), stop)
    if runs["killed"]["exit"] != -signal.SIGKILL:
        raise RuntimeError(
            "The search was complete before its kill. Pass a smaller --kill-after. "
            f"Received: {options.kill_after}"
        )
    runs["resumed"] = watched(started(options, "search", halted))
    above = runs["search"]["peak_megabytes"] - runs["memory"]["peak_megabytes"]
    return {
        "images": len(files),
        "bytes_of_files": sum(file.stat().st_size for file in files),
        "bytes_decoded": len(files) * options.size**2 * 3 * 4,
        "pixels": options.pixels,
        "image_size": options.size,
        "runs": runs,
        "megabytes_above_model": above,
        "equal_tickets": digests(whole) == digests(halted),
        "tickets": digests(whole),
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--pixels", type=int, default=256)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--kill-after", type=float, default=20.0)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--job", choices=("memory", "search"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        return train_one_batch(options) if options.job == "memory" else search(options)
    backend = keras.config.backend()
    found = {
        "command": f"KERAS_BACKEND={backend} python benchmarks/streaming.py --work DIR",
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "versions": versions(),
        **measured(options),
    }
    out = options.out or HERE / "results" / f"streaming_{backend}.json"
    out.write_text(json.dumps(found, indent=1))
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
