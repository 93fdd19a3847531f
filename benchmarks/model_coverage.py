"""Runs all checks of tests/zoo on all of its models, each in a process of its own.

    KERAS_BACKEND=tensorflow python benchmarks/model_coverage.py
    KERAS_BACKEND=jax python benchmarks/model_coverage.py

The JSON file of the backend is written after every model. A model that is in the file
is not run again, unless the library or the zoo has changed since, or `--again` is
given. `--failed` runs only checks that are missing or have failed, whatever else has
changed. A process that crashes or exceeds the time limit fails the check it was in; the
other checks of the model go on in a new process.
"""

import argparse
import functools
import hashlib
import json
import os
import pathlib
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
TESTS = ROOT / "tests"
BACKEND = os.environ.get("KERAS_BACKEND", "tensorflow")


def code(family):
    """Returns a digest of the library and of what a family of models is made of."""
    own = [TESTS / "zoo" / f"{name}.py" for name in ("case", "checks", family)]
    digest = hashlib.sha256()
    for path in [*sorted((ROOT / "tf_tickets").rglob("*.py")), *own]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def check(build, names, out):
    """Runs checks on a model. Writes each check's name, then its result, to a file."""
    import keras
    import warm
    from zoo.checks import Bench, run

    # An exported file is tried in a process that has imported Keras already.
    subprocess.run = warm.run
    keras.utils.set_random_seed(0)
    with out.open("a") as file, tempfile.TemporaryDirectory() as folder:
        bench = None
        for name in names:
            print(json.dumps([name]), file=file, flush=True)
            try:
                bench = bench or Bench(build, pathlib.Path(folder))
                limit = run(name, bench)
                result = {"passed": True} if limit is None else {"limit": limit}
            except Exception as error:
                traceback.print_exc()
                text = re.sub(r"/\S*/", "", f"{type(error).__name__}: {error}")
                result = {"error": text[:1000]}  # without the folders of the machine
                bench = None
            print(json.dumps([name, result]), file=file, flush=True)


def row(family, name, build, checks, options, known):
    """Runs checks on a model in child processes, except those with known results."""
    log = options.logs / f"{BACKEND}-{family}-{re.sub('[^A-Za-z0-9]+', '-', name)}.txt"
    limit, results = options.limit, dict(known)
    while left := [one for one in checks if one not in results]:
        with tempfile.TemporaryDirectory() as folder:
            out = pathlib.Path(folder, "results")
            out.touch()
            ended = _in_child(functools.partial(check, build, left, out), log, limit)
            found = [json.loads(line) for line in out.read_text().splitlines()]
        results |= {line[0]: line[1] for line in found if len(line) == 2}
        # What a process had begun, or could not begin, when it ended early.
        begun = found[-1][0] if found else left[0]
        results.setdefault(begun, {"error": ended})
    return {
        "family": family,
        "name": name,
        "code": code(family),
        "checks": results,
    }


def _in_child(function, log, limit):
    """Runs a function in a forked process; returns how it ended."""
    import warm

    warm.start("tensorflow")
    warm.start(BACKEND)
    child = os.fork()
    if not child:
        _run_and_exit(function, log)
    end = time.monotonic() + limit
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            warm.stop()
            return f"The process was ended after {limit} seconds."
        time.sleep(0.1)
    if status:
        # It may have died while a program ran for it.
        warm.stop()
    return f"The process ended with status {os.waitstatus_to_exitcode(status)}."


def _run_and_exit(function, log):
    status = 1
    try:
        with log.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        function()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def show(made, seconds):
    """Prints a line for a model."""
    cells = [
        "ok" if "passed" in result else "limit" if "limit" in result else "FAILED"
        for result in made["checks"].values()
    ]
    pairs = zip(made["checks"], cells, strict=True)
    text = ", ".join(f"{name} {cell}" for name, cell in pairs)
    print(f"{made['family']}: {made['name']}: {text} ({seconds:.0f} s)", flush=True)
    for name, result in made["checks"].items():
        if "error" in result:
            print(f"    {name}: {result['error'][:300]}", flush=True)


def _known(made, checks, options):
    """Returns the results of a model that need not be found again, by check."""
    if made is None or options.again:
        return {}
    if not options.failed and made["code"] != code(made["family"]):
        return {}
    known = made["checks"].items()
    kept = {one: found for one, found in known if "error" not in found}
    if not options.failed:
        kept = dict(known)
    return {one: kept[one] for one in [*checks, *kept] if one in kept}


def _rows(out):
    """Returns the rows of the JSON file, by family and name."""
    rows = json.loads(out.read_text())["rows"] if out.exists() else []
    return {(made["family"], made["name"]): made for made in rows}


def parsed():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--families", nargs="+", help="modules of tests/zoo (default: all)")
    add("--models", nargs="+", help="names of models (default: all)")
    add("--checks", nargs="+", help="names of checks (default: all)")
    add("--again", action="store_true", help="run models that are in the file, too")
    add("--failed", action="store_true", help="run only what failed or is missing")
    add("--limit", type=float, default=900, help="seconds per process")
    add("--logs", type=pathlib.Path, default=HERE / "runs" / "model_coverage")
    add("--out", type=pathlib.Path, default=HERE / "results")
    return parser.parse_args()


def main():
    options = parsed()
    options.logs.mkdir(parents=True, exist_ok=True)
    sys.path[:0] = [str(ROOT), str(TESTS)]
    paths = [*sys.path[:2], os.environ.get("PYTHONPATH", "")]
    # For the processes of the export.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    from zoo import models
    from zoo.checks import CHECKS

    from tf_tickets.environment import versions

    checks = options.checks or list(CHECKS)
    out = options.out / f"model_coverage_{BACKEND}.json"
    for (family, name), build in models().items():
        if options.families and family not in options.families:
            continue
        if options.models and name not in options.models:
            continue
        known = _known(_rows(out).get((family, name)), checks, options)
        if set(checks) <= set(known):
            continue
        begun = time.monotonic()
        made = row(family, name, build, checks, options, known)
        show(made, time.monotonic() - begun)
        # Another run may have written other models in the meantime.
        rows = {**_rows(out), (family, name): made}
        found = {
            "command": f"KERAS_BACKEND={BACKEND} python benchmarks/model_coverage.py",
            "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
            "versions": versions(),
            "rows": [rows[key] for key in models() if key in rows],
        }
        beside = out.with_suffix(".part")
        beside.write_text(json.dumps(found, indent=1))
        beside.replace(out)


if __name__ == "__main__":
    main()
