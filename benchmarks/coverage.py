"""Runs all checks of tests/zoo on all of its models, each in a process of its own.

    KERAS_BACKEND=tensorflow python benchmarks/coverage.py
    KERAS_BACKEND=jax python benchmarks/coverage.py

The JSON file of the backend is written after every model. A model that is in the file
is not run again, unless the library or the zoo has changed since, or `--again` is given.
`--failed` runs only models that are missing or have failed, whatever has changed. A
process that crashes or exceeds the time limit fails the check it was in; the other
checks of the model go on in a new process.
"""

import argparse
import hashlib
import json
import os
import pathlib
import platform
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


def check(family, name, checks, out):
    """Runs checks on a model. Writes each check's name, then its result, to a file."""
    sys.path[:0] = [str(TESTS)]
    import keras
    from zoo import checks as zoo_checks
    from zoo import families

    build = families()[family][name]
    with out.open("a") as file:
        for one in checks:
            print(json.dumps([one]), file=file, flush=True)
            keras.utils.clear_session()
            keras.utils.set_random_seed(0)
            result = _result(zoo_checks, one, build)
            print(json.dumps([one, result]), file=file, flush=True)


def _result(zoo_checks, name, build):
    with tempfile.TemporaryDirectory() as folder:
        try:
            limit = zoo_checks.run(name, build, pathlib.Path(folder))
        except Exception as error:
            traceback.print_exc()
            return {"error": f"{type(error).__name__}: {error}"[:1000]}
    return {"passed": True} if limit is None else {"limit": limit}


def row(family, name, checks, options):
    """Runs all checks on a model in child processes."""
    results = {}
    while left := [one for one in checks if one not in results]:
        with tempfile.TemporaryDirectory() as folder:
            out = pathlib.Path(folder, "results")
            out.touch()
            ended = _child(family, name, left, out, options)
            found = [json.loads(line) for line in out.read_text().splitlines()]
        results |= {line[0]: line[1] for line in found if len(line) == 2}
        # What a process had begun, or could not begin, when it ended early.
        begun = found[-1][0] if found else left[0]
        results.setdefault(begun, {"error": ended})
    return {
        "family": family,
        "name": name,
        "code": code(family),
        "checks": {one: results[one] for one in checks},
    }


def _child(family, name, checks, out, options):
    command = [sys.executable, __file__, "--child", family, name, str(out), *checks]
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    log = options.logs / f"{BACKEND}-{family}-{name.replace('/', '-')}.txt"
    with log.open("a") as file:
        try:
            status = subprocess.run(
                command,
                env=environment,
                stdout=file,
                stderr=file,
                timeout=options.limit,
            ).returncode
        except subprocess.TimeoutExpired:
            return f"The process was ended after {options.limit} seconds."
    return f"The process ended with status {status}."


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


def _failed(made):
    return any("error" in result for result in made["checks"].values())


def _due(made, options):
    """Returns whether a model must be run: it is missing, failed or out of date."""
    if options.again or made is None:
        return True
    return _failed(made) if options.failed else made["code"] != code(made["family"])


def parsed():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--families", nargs="+", help="modules of tests/zoo (default: all)")
    add("--models", nargs="+", help="names of models (default: all)")
    add("--again", action="store_true", help="run models that are in the file, too")
    add("--failed", action="store_true", help="run only what failed or is missing")
    add("--limit", type=float, default=900, help="seconds per process")
    add("--logs", type=pathlib.Path, default=HERE / "runs" / "coverage")
    add("--out", type=pathlib.Path, default=HERE / "results")
    return parser.parse_args()


def main():
    if sys.argv[1:2] == ["--child"]:
        family, name, out, *checks = sys.argv[2:]
        return check(family, name, checks, pathlib.Path(out))
    options = parsed()
    options.logs.mkdir(parents=True, exist_ok=True)
    sys.path[:0] = [str(ROOT), str(TESTS)]
    from zoo import models
    from zoo.checks import CHECKS

    from tf_tickets.environment import versions

    out = options.out / f"coverage_{BACKEND}.json"
    rows = json.loads(out.read_text())["rows"] if out.exists() else []
    rows = {(made["family"], made["name"]): made for made in rows}
    for family, name in models():
        if options.families and family not in options.families:
            continue
        if options.models and name not in options.models:
            continue
        if not _due(rows.get((family, name)), options):
            continue
        begun = time.monotonic()
        made = rows[family, name] = row(family, name, list(CHECKS), options)
        show(made, time.monotonic() - begun)
        found = {
            "command": f"KERAS_BACKEND={BACKEND} python benchmarks/coverage.py",
            "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
            "versions": versions(),
            "rows": [rows[key] for key in models() if key in rows],
        }
        beside = out.with_suffix(".part")
        beside.write_text(json.dumps(found, indent=1))
        beside.replace(out)


if __name__ == "__main__":
    main()
