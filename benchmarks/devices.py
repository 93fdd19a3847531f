"""Compares searches on two devices with the same searches on one, on digits.

    KERAS_BACKEND=tensorflow python benchmarks/devices.py
    KERAS_BACKEND=jax python benchmarks/devices.py
    KERAS_BACKEND=tensorflow python benchmarks/devices.py --processes
    KERAS_BACKEND=jax python benchmarks/devices.py --processes

The devices are two parts of the CPU. Each search runs once on one device and once on
two, by `tf.distribute.MirroredStrategy` or `keras.distribution.DataParallel`, with the
same seed and the same batches. The bits of the masks that differ are counted.

With `--processes`, two processes of this machine try a plain `fit` of Keras and a
search under `tf.distribute.MultiWorkerMirroredStrategy` or
`keras.distribution.initialize`.
"""

import argparse
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "tests"), str(HERE.parent)]

import devices  # noqa: E402

from tf_tickets.environment import versions  # noqa: E402

SEARCHES = "IMP", "ContinuousSparsification", "StochasticSparsification"
PROGRAM = HERE.parent / "tests" / "devices.py"


def searches(seeds):
    """Yields the rows of all searches and networks."""
    scope = devices.start()
    problem = devices.Problem(digits=True)
    for seed in seeds:
        for row in devices.compare(problem, SEARCHES, scope, seed=seed):
            print(json.dumps(row), flush=True)
            yield row
    if devices.BACKEND == "jax":
        # The layout of a kernel that is split between the devices, not copied.
        layout = devices.split_in_two()
        for row in devices.compare(problem, SEARCHES, layout, ["batch normalization"]):
            yield {**row, "network": "batch normalization, ModelParallel"}


def processes(seconds):
    """Returns what two processes that train together report."""
    port = random.Random(os.getpid()).randrange(20_000, 60_000)
    with tempfile.TemporaryDirectory() as folder:
        outs = [pathlib.Path(folder, f"{index}.json") for index in range(2)]
        workers = [
            subprocess.Popen(
                [sys.executable, PROGRAM, out, str(index), str(port)],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                stderr=subprocess.DEVNULL,
            )
            for index, out in enumerate(outs)
        ]
        try:
            for process in workers:
                process.wait(seconds)
        finally:
            for process in workers:
                process.kill()
        return [json.loads(out.read_text("utf-8")) for out in outs if out.exists()]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--processes", action="store_true")
    parser.add_argument("--seconds", type=float, default=600.0, help="patience")
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "results/devices")
    options = parser.parse_args()
    name = "processes" if options.processes else "masks"
    path = options.out / f"{name}_{devices.BACKEND}.json"
    if options.processes:
        found = {"workers": processes(options.seconds)}
    else:
        found = {"rows": list(searches(options.seeds))}
    command = f"python benchmarks/devices.py{' --processes' * options.processes}"
    if options.seeds != [0]:
        command += f" --seeds {' '.join(map(str, options.seeds))}"
    content = {"command": command, "versions": versions(), **found}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
