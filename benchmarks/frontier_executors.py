"""Times one frontier serially and in processes of Ray.

    KERAS_BACKEND=tensorflow python benchmarks/frontier_executors.py
    KERAS_BACKEND=jax python benchmarks/frontier_executors.py

The searches of `tf-tickets frontier` on the digits: `--searches` of them, from the
list below, with every ticket trained. Each way runs in a new process, which imports,
compiles and trains everything:

serial    In one process, with as many threads as the backend chooses.
one       In one process, with one thread per computation.
kept      As "one", with JAX's compilation cache in a new folder; on JAX only.
ray       In `--workers` processes of Ray, with one thread each. On JAX, they share
          a new compilation cache.

Seconds are of the whole process. Of "one" and "ray", the ids of all tickets and
`frontier.json` are compared; files whose bytes differ, such as tickets with names that
Keras counts up, are listed. Results: `benchmarks/results/executors/BACKEND.json`.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
WAYS = {
    "serial": ("serial", None),
    "one": ("serial", 1),
    "kept": ("serial", 1),
    "ray": ("ray", 1),
}
# A mix of methods: 12 searches of different lengths.
SCORES = (-0.3, -0.2, -0.1, 0.0)
SPARSITIES = (0.8, 0.9, 0.95)


def searches(count, rounds, epochs):
    """Returns the first searches of the list by label."""
    import tf_tickets as tt

    cs = tt.ContinuousSparsification(max(1, rounds // 3), epochs)
    at_init = tt.PruneAtInit(epochs=epochs, criterion="synflow")
    iss = tt.StochasticSparsification(rounds, epochs)
    found = {
        "imp": tt.IMP(rounds, epochs, 0.2),
        "imp 0.35": tt.IMP(rounds, epochs, 0.35),
        "iss": iss,
        **{f"cs {k}": s for k, s in cs.varied(initial_score=SCORES).items()},
        "threshold": tt.ThresholdPruning(rounds, epochs),
        "dlth": tt.DLTH(0.9, rounds, epochs, epochs, train="none"),
    }
    varied = at_init.varied(final_sparsity=SPARSITIES)
    found |= {f"synflow {k}": s for k, s in varied.items()}
    return dict(list(found.items())[:count])


def run(options, way, directory):
    """Runs the frontier in this process."""
    import keras

    import tf_tickets as tt

    executor, _ = WAYS[way]
    if executor == "ray":
        executor = tt.executors.RayExecutor(
            workers=options.workers, object_store_memory=200_000_000
        )
        executor.start()
    data = tt.datasets.load("digits")
    if options.take:
        data = data.take(options.take)

    def build():
        return tt.recipes.build(
            "lenet300",
            data.input_shape,
            data.num_classes,
            steps_per_epoch=len(data.x_train) // 32,
            epochs=options.epochs,
        )

    found = tt.find_frontier(
        build,
        data,
        searches(options.searches, options.rounds, options.epochs),
        directory,
        epochs=options.ticket_epochs or options.epochs,
        batch_size=32,
        executor=executor,
    )
    if way == "ray":
        executor.shutdown()
    print(json.dumps({"points": len(found.points), "backend": keras.backend.backend()}))


def timed(options, way, directory):
    """Runs the frontier in a new process; returns its seconds and what it did."""
    from tf_tickets.search.executors import thread_variables

    _, threads = WAYS[way]
    variables = thread_variables(threads) if threads else {}
    if way == "kept":
        variables["JAX_COMPILATION_CACHE_DIR"] = str(directory.parent / "compiled")
        variables["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    words = [sys.executable, __file__, *sys.argv[1:], "--way", way]
    began = time.monotonic()
    process = subprocess.run(
        [*words, "--directory", str(directory)],
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    seconds = time.monotonic() - began
    return {"seconds": seconds, **json.loads(process.stdout.splitlines()[-1])}


def differing(one, other):
    """Returns the names of the files that differ, without the plots."""
    first, second = files(one), files(other)
    names = sorted(set(first) | set(second))
    return [name for name in names if first.get(name) != second.get(name)]


def files(directory):
    found = [path for path in directory.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in found
        if path.suffix != ".png"
    }


def results(directory):
    """Returns the ids of the tickets, and all metrics."""
    import tf_tickets as tt

    paths = sorted(directory.rglob("*.ticket"))
    ids = {str(p.relative_to(directory)): tt.Ticket.load(p).id for p in paths}
    return ids, (directory / "frontier.json").read_bytes()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--searches", type=int, default=12, help="at most 12")
    parser.add_argument("--rounds", type=int, default=12, help="rounds of a search")
    parser.add_argument("--epochs", type=int, default=15, help="epochs of a round")
    parser.add_argument(
        "--ticket-epochs", type=int, default=16, help="epochs of a ticket's training"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes of Ray")
    parser.add_argument("--take", type=int, help="train on the first N digits")
    parser.add_argument("--out", type=pathlib.Path, help="the file of the results")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=pathlib.Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        run(options, options.way, options.directory)
        return
    with tempfile.TemporaryDirectory(prefix="executors-") as name:
        folders = {way: pathlib.Path(name) / way for way in WAYS}
        chosen = [way for way in WAYS if way != "kept" or backend() == "jax"]
        ways = {way: timed(options, way, folders[way]) for way in chosen}
        content = {
            "command": command(),
            "backend": ways["ray"].pop("backend"),
            "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
            "versions": versions(),
            "date": datetime.date.today().isoformat(),
            "searches": options.searches,
            "rounds": options.rounds,
            "epochs": options.epochs,
            "ticket_epochs": options.ticket_epochs,
            "workers": options.workers,
            "ways": ways,
            "ratio_to_serial": ways["ray"]["seconds"] / ways["serial"]["seconds"],
            "ratio_to_one_thread": ways["ray"]["seconds"] / ways["one"]["seconds"],
            "identical_results": results(folders["one"]) == results(folders["ray"]),
            "differing_files": differing(folders["one"], folders["ray"]),
        }
    default = ROOT / "benchmarks/results/executors" / f"{content['backend']}.json"
    path = options.out or default
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps(content, indent=1))


def backend():
    import keras

    return keras.backend.backend()


def command():
    words = " ".join(["python benchmarks/frontier_executors.py", *sys.argv[1:]])
    return words.partition(" --out")[0]


def versions():
    import importlib.metadata

    names = ("keras", "tensorflow", "jax", "ray", "numpy")
    return {name: importlib.metadata.version(name) for name in names}


if __name__ == "__main__":
    main()
