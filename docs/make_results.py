"""Writes the tables of the documentation from the JSON files of the benchmarks.

    python docs/make_results.py          rewrites the tables in README.md and docs/
    python docs/make_results.py --check  only lists the pages that are out of date

A page holds a table between `<!-- table: NAME -->` and `<!-- end -->`, where NAME is
that of a function in `result_tables`, and the command that made a JSON file, FILE
without its suffix, between `<!-- command: FILE -->` and `<!-- end -->`. All figures
come from `benchmarks/results/*.json`.
"""

import pathlib
import re
import sys

from result_tables import TABLES, load

ROOT = pathlib.Path(__file__).resolve().parent.parent
_REGION = re.compile(r"(<!-- (table|command): (.+?) -->\n)(.*?)(<!-- end -->)", re.S)


def main(arguments):
    stale = []
    for page in pages():
        text = page.read_text("utf-8")
        new = filled(text)
        if new != text:
            stale.append(page)
            if "--check" not in arguments:
                page.write_text(new, "utf-8")
    for page in stale:
        print(page.relative_to(ROOT))
    return int(bool(stale) and "--check" in arguments)


def pages():
    """README and the pages of the site."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [page for page in found if "<!-- end -->" in page.read_text("utf-8")]


def filled(text):
    """The text of a page with its tables and commands as the JSON files have them."""
    return _REGION.sub(_region, text)


def _region(match):
    begin, kind, name, _, end = match.groups()
    content = TABLES[name]() if kind == "table" else _command(name)
    return f"{begin}{content}\n{end}"


def _command(name):
    """The command as the file has it, without where its output went to."""
    found = load(name)
    command = re.sub(r" --out \S+", "", found["command"])
    backend = found.get("backend") or found.get("versions", {}).get("backend")
    if not command.startswith("KERAS_BACKEND") and backend:
        command = f"KERAS_BACKEND={backend} {command}"
    return f"```sh\n{command}\n```"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
