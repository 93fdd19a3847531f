"""Whole searches here and with other libraries, from a process's start to its end.

    python benchmarks/peers.py lenet300 --data-dir DIR \
        --torch VENV/bin/python --tfmot VENV/bin/python

Cases: `lenet300` is IMP of LeNet-300-100 on MNIST, `lenet300-cs` Continuous
Sparsification of the same, `resnet8` IMP of ResNet-8 on CIFAR-10 with few images and
epochs. Programs, each an own process, in benchmarks/peer_programs:

- tf_tickets on TensorFlow and on JAX, with the interpreter that runs this file, or on
  JAX with `--jax`: one without TensorFlow, as `pip install tf_tickets[jax]` makes it.
  Where TensorFlow is installed too, Keras imports it on every backend. "16 steps a
  call" is TensorFlow with `compile(jit_compile=True, steps_per_execution=16)`.
- "without oneDNN" is TensorFlow with its own convolutions, which it has by default on
  processors without AVX-512 VNNI, AVX-VNNI and AMX. There, start this file with
  `TF_ENABLE_ONEDNN_OPTS=1` for `resnet8`; all programs inherit it.
- torch: a plain loop in PyTorch with the data as tensors in memory, and `torch,
  DataLoader`, the same with a DataLoader (`--torch`: an interpreter with PyTorch)
- tfmot: a loop with tensorflow-model-optimization and tf_keras (`--tfmot`)
- PQuantML, Continuous Sparsification only (`--pquantml`: with pquant-ml and PyTorch)

A round runs every program once; the next round runs them in reversed order. Ratios are
those of a round. What has no interpreter is left out, and the JSON file says so. The
data are written before the clock starts. Memory is the peak of a process's resident
set, as the kernel reports it at its end.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

# This process stays small: a child's peak memory includes that of the process that
# starts it. So whatever imports Keras runs in a process of its own.
HERE = pathlib.Path(__file__).resolve().parent
PROGRAMS = HERE / "peer_programs"
IMP = {"method": "imp", "rate": 0.2}
MNIST = {
    "data": "mnist",
    "network": "lenet300",
    "batch_size": 128,
    "learning_rate": 0.1,
    "momentum": 0.0,
    "mean": 0.1307,
    "deviation": 0.3081,
    # Whole batches: this library leaves out the rest of an epoch, others do not.
    "images": 59_904,
    "test_images": 10_000,
}
CASES = {
    "lenet300": {**MNIST, **IMP, "rounds": 4, "epochs": 3},
    "lenet300-cs": {
        **MNIST,
        "method": "cs",
        "initial_score": 0.0,
        "final_temperature": 200,
        "penalty": 1e-8,
        "rounds": 2,
        "epochs": 3,
    },
    "resnet8": {
        **IMP,
        "data": "cifar10",
        "network": "resnet8",
        "batch_size": 128,
        "learning_rate": 0.1,
        "momentum": 0.9,
        "mean": 0.473,
        "deviation": 0.251,
        "rounds": 2,
        "epochs": 2,
        "images": 5_120,
        "test_images": 2_000,
    },
}
OURS = "tf_tickets on TensorFlow", "tf_tickets on JAX"
SHORT_STEPS = "tf_tickets on TensorFlow, 16 steps a call"
NO_ONEDNN = "tf_tickets on TensorFlow, without oneDNN"
ONEDNN = "TF_ENABLE_ONEDNN_OPTS"
# The program of each row, the option with its interpreter, its own settings.
ROWS = {
    OURS[0]: ("tf_tickets_search.py", None, {"backend": "tensorflow"}),
    OURS[1]: ("tf_tickets_search.py", "jax", {"backend": "jax"}),
    SHORT_STEPS: (
        "tf_tickets_search.py",
        None,
        {"backend": "tensorflow", "xla": True, "steps_per_execution": 16},
    ),
    NO_ONEDNN: (
        "tf_tickets_search.py",
        None,
        {"backend": "tensorflow", "environment": {ONEDNN: "0"}},
    ),
    "torch": ("torch_loop.py", "torch", {"loader": False}),
    "torch, DataLoader": ("torch_loop.py", "torch", {"loader": True}),
    "tfmot": ("tfmot_loop.py", "tfmot", {}),
    "PQuantML": ("pquantml_cs.py", "pquantml", {"backend": "torch"}),
}
OF_CASES = {
    "lenet300": [*OURS, SHORT_STEPS, "torch", "torch, DataLoader", "tfmot"],
    "lenet300-cs": [*OURS, SHORT_STEPS, "PQuantML"],
    "resnet8": [*OURS, NO_ONEDNN, "torch", "tfmot"],
}
INTERPRETERS = "jax", "torch", "tfmot", "pquantml"
# Settings that all programs inherit, kept in the JSON file.
INHERITED = "OMP_NUM_THREADS", "OMP_WAIT_POLICY", ONEDNN
QUICK = {"rounds": 1, "epochs": 2, "images": 512, "test_images": 200}


def main(argv=None):
    options = parser().parse_args(argv)
    case = dict(CASES[options.case])
    if options.quick:
        case |= QUICK
    rows, left_out = chosen(options)
    rounds, loads = [], []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        write_data(options, case, folder, rows)
        for number in range(options.pairs):
            # Before the first process of a round, so that it is the load by others.
            loads.append(os.getloadavg()[0])
            order = rows if number % 2 == 0 else rows[::-1]
            results = {name: run(options, name, case, folder) for name in order}
            rounds.append({name: results[name] for name in rows})
            found = {
                **origin(options),
                "loads": loads,
                "case": case,
                "left_out": left_out,
                "rounds": rounds,
            }
            # Each round is kept, should a program of the next one fail.
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(found, indent=1) + "\n")
    for ours in filter(is_ours, rows):
        for peer in (name for name in rows if not is_ours(name)):
            ratios = [r[ours]["seconds"] / r[peer]["seconds"] for r in rounds]
            print(f"{ours} / {peer}: {statistics.median(ratios):.2f}")


def parser():
    found = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = found.add_argument
    add("case", choices=CASES)
    add("--data-dir", help="where tensorflow-datasets has prepared MNIST and CIFAR-10")
    for name in INTERPRETERS:
        add(f"--{name}", metavar="PYTHON", help=f"an interpreter with {name}")
    add("--only", nargs="+", choices=ROWS, help="the rows to run; all by default")
    add("--pairs", type=int, default=2, help="how many times each program runs")
    add("--seed", type=int, default=0)
    add("--quick", action="store_true", help="a few steps of each, to try it")
    add("--out", type=pathlib.Path, help="the JSON file")
    return Parsed(found)


class Parsed:
    """A parser whose default output depends on the case."""

    def __init__(self, parser):
        self.parser = parser

    def parse_args(self, argv=None):
        options = self.parser.parse_args(argv)
        if options.quick and options.out is None:
            self.parser.error("--quick needs an --out of its own.")
        if options.out is None:
            options.out = HERE / "results" / "peers" / f"{options.case}.json"
        return options


def chosen(options):
    """Returns the rows to run, and why others are left out."""
    rows, left_out = [], {}
    for name in OF_CASES[options.case]:
        if options.only and name not in options.only:
            left_out[name] = "not asked for by --only"
        elif interpreter(options, name) is None:
            left_out[name] = f"no interpreter was given by --{ROWS[name][1]}"
        else:
            rows.append(name)
    return rows, left_out


def is_ours(name):
    return ROWS[name][0] == "tf_tickets_search.py"


def interpreter(options, name):
    """Returns the interpreter of a row, or None."""
    option = ROWS[name][1]
    given = getattr(options, option) if option else None
    return given or (sys.executable if is_ours(name) else None)


def write_data(options, case, folder, rows):
    """Writes the images of a case as bytes, in a process of its own.

    It has the backend of the first of this library's rows.
    """
    ours = next(filter(is_ours, rows), OURS[0])
    script = (
        "import sys, numpy as np, tf_tickets as tt\n"
        "name, folder, images, test_images, out = sys.argv[1:]\n"
        "data = tt.datasets.load(name, folder or None, scaling='unit')\n"
        "x = np.concatenate([data.x_train, data.x_val])[: int(images)]\n"
        "y = np.concatenate([data.y_train, data.y_val])[: int(images)]\n"
        "pixels = lambda x: np.rint(255.0 * x).astype('uint8')\n"
        "squeezed = lambda x: x[..., 0] if x.shape[-1] == 1 else x\n"
        "np.savez(out, x_train=squeezed(pixels(x)), y_train=y.astype('uint8'),\n"
        "    x_test=squeezed(pixels(data.x_test[: int(test_images)])),\n"
        "    y_test=data.y_test[: int(test_images)].astype('uint8'))"
    )
    counts = str(case["images"]), str(case["test_images"])
    arguments = [case["data"], options.data_dir or "", *counts]
    path = str(folder / "data.npz")
    command = [sys.executable, "-c", script, *arguments, path]
    subprocess.run(command, env=environment_of(ours), check=True)


def environment_of(name):
    """Returns the environment variables of a row's process."""
    settings = ROWS[name][2]
    found = {**os.environ, **settings.get("environment", {})}
    backend = settings.get("backend")
    if backend is not None:
        found["KERAS_BACKEND"] = backend
    # Other libraries need no source tree of this project. It is compiled once, before
    # the clock starts, as an installation is.
    found.pop("PYTHONPATH", None)
    found.pop("PYTHONDONTWRITEBYTECODE", None)
    if is_ours(name):
        found["PYTHONPATH"] = str(HERE.parent)
    return found


def run(options, name, case, folder):
    """Runs a program; returns its times, memory and results."""
    program, _, settings = ROWS[name]
    label = name.replace(",", "").replace(" ", "-")
    backend = settings.get("backend")
    with tempfile.TemporaryDirectory(dir=folder) as work:
        out = folder / f"{label}.json"
        # XLA's convolutions on CPUs are slow, and a GPU would turn XLA on.
        slow = backend == "tensorflow" and case["network"] == "resnet8"
        job = {
            "xla": False if slow else None,
            **case,
            **settings,
            "data": str(folder / "data.npz"),
            "folder": work,
            "out": str(out),
            "seed": options.seed,
        }
        begin = time.perf_counter()
        process = subprocess.Popen(
            [interpreter(options, name), str(PROGRAMS / program), json.dumps(job)],
            env=environment_of(name),
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{name} failed with status {process.returncode}.")
        found = {
            "seconds": seconds,
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "peak_bytes": usage.ru_maxrss * 1024,
            **json.loads(out.read_text()),
        }
    print(f"{name}: {json.dumps(found)}", flush=True)
    return found


def origin(options):
    """Returns what is needed to take the figures again."""
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    parts = [f"{name}={value}" for name, value in inherited.items()]
    parts.append(f"python benchmarks/peers.py {options.case} --data-dir DIR")
    for name in INTERPRETERS:
        if getattr(options, name):
            parts.append(f"--{name} {name.upper()}_VENV/bin/python")
    if options.only:
        parts.append("--only " + " ".join(f'"{name}"' for name in options.only))
    parts.append(f"--pairs {options.pairs} --seed {options.seed}")
    if options.quick:
        parts.append("--quick")
    return {
        "command": " ".join(parts),
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "date": datetime.date.today().isoformat(),
        "seed": options.seed,
        "environment": inherited,
    }


if __name__ == "__main__":
    main()
