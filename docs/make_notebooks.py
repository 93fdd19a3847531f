"""Writes two guides as notebooks, without outputs.

    python docs/make_notebooks.py          rewrites docs/notebooks/*.ipynb
    python docs/make_notebooks.py --check  only lists those that are out of date

A block of Python becomes a cell of code, all between two blocks a cell of text.
"""

import json
import pathlib
import re
import sys

DOCS = pathlib.Path(__file__).resolve().parent
GUIDES = ("imp", "learned-masks")
_BLOCK = re.compile(r"^```python\n(.*?)^```\n", re.S | re.M)
# A link to a page in the folder of the guides.
_BESIDE = re.compile(r"\]\((?![./]|https?:)([\w-]+\.md)")


def main(arguments):
    stale = []
    for name in GUIDES:
        path = DOCS / "notebooks" / f"{name}.ipynb"
        new = notebook(name)
        if not path.exists() or path.read_text("utf-8") != new:
            stale.append(path)
            if "--check" not in arguments:
                path.parent.mkdir(exist_ok=True)
                path.write_text(new, "utf-8")
    for path in stale:
        print(path.relative_to(DOCS.parent))
    return int(bool(stale) and "--check" in arguments)


def notebook(name):
    """The text of the notebook of a guide."""
    text = (DOCS / "guides" / f"{name}.md").read_text("utf-8")
    text = _BESIDE.sub(r"](../guides/\1", text)
    content = {
        "cells": list(cells(name, text)),
        "metadata": {
            "kernelspec": {
                "display_name": "Python 3",
                "language": "python",
                "name": "python3",
            },
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def cells(name, text):
    # Split by one group: texts at the even places, code at the odd ones.
    for place, part in enumerate(_BLOCK.split(text)):
        part = part.strip("\n")
        if not part:
            continue
        cell = {
            "cell_type": "code" if place % 2 else "markdown",
            "id": f"{name}-{place}",
            "metadata": {},
            "source": part.splitlines(keepends=True),
        }
        yield cell | ({"execution_count": None, "outputs": []} if place % 2 else {})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
