"""The files of the comparison on CIFAR-10: each has the points of one run."""

import datetime
import json

import keras
from cifar10_plan import plan
from cifar10_study import compiled, made_here, read_log, replace


def perform(options, study, run):
    """Runs what a run lacks, and writes each point at once."""
    path = file_of(options, run, study.seed)
    before = content_of(options, run, study.seed)
    points = []
    trainings = run.trainings(options.epochs)
    study.known = kept_of(run, before)

    def by_epoch(name):
        log = read_log(study.folder / name / "epochs.json")
        if not log and name in study.known:
            log = before["by_epoch"].get(name, [])
        return log

    def write(is_complete):
        reported = {point["folder"] for point in points}
        rest = [p for name, p in study.known.items() if name not in reported]
        present = content_of(options, run, study.seed)
        earlier = [*before["points"], *present["points"]]
        content = {
            "method": run.method,
            "setting": run.setting,
            "seed": study.seed,
            "command": command(options),
            "training_images": study.images,
            "epochs": {
                "search": max((p["epochs"] - p["own"] for p in points), default=0),
                "final": max((p["own"] for p in points), default=0),
            },
            "complete": is_complete,
            "points": [recorded(p, study, earlier) for p in [*points, *rest]],
            "by_epoch": {name: by_epoch(name) for name in trainings if by_epoch(name)},
        }  # fmt: skip
        replace(path, content)

    # If nothing is left to train, nothing that it would start from is trained either.
    done = set(trainings) <= study.known.keys()
    for point in list(study.known.values()) if done else run.points(study):
        points.append({**point, "own": len(by_epoch(point["folder"]))})
        write(False)
        print(
            f"{datetime.datetime.now():%H:%M} {run.name}-{study.seed} "
            f"kept {point['kept']:.4f} test {point['test_accuracy']:.4f}",
            flush=True,
        )
    write(True)


def recorded(point, study, earlier):
    """Returns a point with what it was made on, and its bytes if they are known.

    Args:
        point: The point.
        study: The study.
        earlier: Points that a file of its run has had. `--export` adds bytes to them.
    """
    found = {"made": made_here(study.options)}
    for other in earlier:
        if same(point, other):
            found |= {k: other[k] for k in ("made", "int8_bytes") if k in other}
    made = study.folder / point["folder"] / "made.json"
    if made.exists():
        found["made"] = json.loads(made.read_text())
    return {k: v for k, v in {**point, **found}.items() if k != "own"}


def file_of(options, run, seed):
    return options.out / f"{run.name}-{seed}.json"


def content_of(options, run, seed):
    """Returns what the file of a run holds, also if there is none."""
    path = file_of(options, run, seed)
    if path.exists():
        return json.loads(path.read_text())
    return {"complete": False, "points": [], "by_epoch": {}}


def command(options):
    return (
        f"KERAS_BACKEND={keras.config.backend()} python benchmarks/cifar10.py "
        f"--data-dir DIR --epochs {options.epochs} --threads {options.threads}"
        + (" --quick" if options.quick else "")
    )


def complete(options, run, seed):
    """Returns whether a run is done; refuses the file of another command."""
    content = content_of(options, run, seed)
    given, other = command(options), content.get("command")
    if other not in (None, given):
        raise SystemExit(
            f"{file_of(options, run, seed)} is of another command. Received: {given}. "
            f"The file has: {other}. Pass another --out and --work, or remove it."
        )
    return content["complete"] and len(valid(content["points"])) == len(
        content["points"]
    )


def kept_of(run, before):
    """Returns the points of a run's file that need not be trained again, by folder."""
    if not run.apart:
        return {}
    return {point["folder"]: point for point in valid(before["points"])}


def valid(points):
    """Leaves out narrow networks that were trained without XLA (`compiled`)."""
    return [p for p in points if p.get("xla", False) == compiled(p["width"] < 1)]


def same(point, other):
    """Returns whether two points are of the same trained ticket."""
    names = ("folder", "kept", "epochs", "val_accuracy", "test_accuracy")
    return all(point[name] == other[name] for name in names)


def write_plan(options):
    """Writes the epochs and networks of all runs, for the tables."""
    rows = [
        {
            "method": run.method,
            "setting": run.setting,
            "seed": seed,
            "epochs": sum(run.trainings(options.epochs).values()),
            "networks": run.networks(options.epochs),
        }
        for run, seed in plan(options.seeds)
    ]
    content = {"command": command(options), "epochs": options.epochs, "runs": rows}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "plan.json").write_text(json.dumps(content, indent=1))


def status(options):
    """Prints the epochs that are done and left, by run."""
    total = done = 0
    for run, seed in plan(options.seeds):
        trainings = run.trainings(options.epochs)
        whole_run = sum(trainings.values())
        kept = kept_of(run, content_of(options, run, seed))
        folder = options.work / f"seed{seed}"
        here = sum(
            count if name in kept else epochs_in(folder / name, count)
            for name, count in trainings.items()
        )
        here = whole_run if complete(options, run, seed) else here
        total, done = total + whole_run, done + here
        print(f"{run.name}-{seed}: {here} of {whole_run} epochs")
    print(f"{done} of {total} epochs done, {total - done} left")


def epochs_in(folder, count):
    """Returns how many epochs a folder has; teachers are there or not."""
    if any(folder.glob("teacher_*")):
        return count
    return len(read_log(folder / "epochs.json"))
