"""The files of a frontier: JSON to load again, CSV for spreadsheets."""

import csv
import json
import os
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from tf_tickets import arguments, files, schema
from tf_tickets.search.points import Point, StoredPoint
from tf_tickets.tickets.monitor import Monitor

# The file that `find_frontier` writes into its directory.
NAME = "frontier.json"
_REMEDY = "Run the comparison again with the same directory: it is written anew."
_METRICS = schema.mapping(schema.number)


def slug(label: str) -> str:
    """Returns the name of the folder of a search.

    Example:

    >>> slug("cs initial_score=0.1")
    'cs_initial_score=0.1'
    """
    return "".join(c if c.isalnum() or c in "-_.=" else "_" for c in label)


def write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
    """Writes the content of a frontier."""
    with files.replacing(path) as draft:
        draft.write_text(json.dumps(content, indent=1, default=arguments.plain))


def write_csv(path: pathlib.Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes rows as CSV. Its columns are all names that occur, in their order."""
    rows = list(rows)
    names = list(dict.fromkeys(name for row in rows for name in row))
    with files.replacing(path) as draft, open(draft, "w", newline="") as file:
        writer = csv.DictWriter(file, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Reads and validates the JSON file of a frontier.

    Files of versions before seeds, dense networks by seed and the metric of selection
    were stored are read too.

    Args:
        path: The file, or the directory of `find_frontier`.

    Returns:
        The fields of a `Frontier`.
    """
    if path.is_dir():
        path = path / NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no frontier at {path}. Pass the path of a file that "
            "`Frontier.save` wrote, or the directory of `find_frontier`."
        )
    if path.suffix.lower() == ".csv":
        raise ValueError(
            f"{path} is a table for spreadsheets, which `Frontier.load` does not read. "
            f"Expected a .json file. Pass the {NAME} of `find_frontier` or a file of "
            'frontier.save("points.json").'
        )
    content = files.read_json(path, _check, _REMEDY)
    rows = content["points"]
    seed = content["provenance"].get("seed", 0)
    for row in rows:
        row.setdefault("seed", seed)
        row.pop("optimal", None)
    has_seeds = "seeds" in content["provenance"]
    several = len({row["seed"] for row in rows}) > 1
    by_seed = content.get("dense_by_seed", {})
    return {
        "points": [_point(path.parent, row, several, has_seeds) for row in rows],
        "dense": content["dense"],
        "monitor": content["monitor"],
        "provenance": content["provenance"],
        "dense_by_seed": {int(key): metrics for key, metrics in by_seed.items()},
        "selected_by": content.get("selected_by"),
    }


def _point(folder, row, several, has_seeds):
    file = _ticket_file(folder, row, several, has_seeds)
    return Point(**row) if file is None else StoredPoint.beside(file, **row)


def _ticket_file(folder, row, several, has_seeds):
    """The ticket beside the file, where `find_frontier` stores it, or None."""
    search, seed = folder / slug(row["label"]), row["seed"]
    folders = [search / f"seed_{seed}", search / str(seed)]
    if not several:
        # One directory may have the files of both `seed=1` and `seeds=[1]`.
        folders.insert(len(folders) if has_seeds else 0, search)
    for place in folders:
        file = place / f"round_{row['round']:02}.ticket"
        if file.is_file():
            return file
    return None


def _share(value, name):
    schema.number(value, name)
    if not 0 <= value <= 1:
        raise ValueError(f"`{name}` must be from 0 to 1. Received: {value!r}")


def _by_seed(value, name):
    schema.mapping(_METRICS)(value, name)
    for key in value:
        if not re.fullmatch("[0-9]{1,10}", key):
            raise ValueError(f"`{name}` must have seeds as keys. Received: {key!r}")


def _label(value, name):
    schema.text(value, name)
    if "\0" in value:
        raise ValueError(f"`{name}` must be without NUL. Received: {value!r}")


_CHECK = schema.fields(
    {
        "monitor": schema.text,
        "dense": _METRICS,
        "points": schema.items(
            schema.fields(
                {
                    "label": _label,
                    "round": schema.count,
                    "sparsity": _share,
                    "search_epochs": schema.count,
                    "metrics": _METRICS,
                },
                {"seed": schema.count, "optimal": schema.flag},
            )
        ),
        "provenance": schema.fields({}, {"seed": schema.count}, others=True),
    },
    {
        "dense_by_seed": _by_seed,
        "selected_by": schema.text,
        # Computed from the points, for other readers.
        "means": schema.accept,
    },
)


def _check(content, name):
    _CHECK(content, name)
    for metric in (content["monitor"], content.get("selected_by")):
        for row in content["points"] if metric is not None else ():
            Monitor(metric).merit(row["metrics"])


def check_suffix(path: pathlib.Path) -> str:
    """Returns ".json" or ".csv"; refuses other suffixes.

    Example:

    >>> check_suffix(pathlib.Path("a.JSON"))
    '.json'
    """
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".json"):
        raise ValueError(
            "The suffix of a frontier's file must be '.json', which `Frontier.load` "
            f"reads, or '.csv'. Received: {os.fspath(path)!r}"
        )
    return suffix
