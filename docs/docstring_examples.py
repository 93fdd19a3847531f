"""Lets the API reference show `Example:` sections as code (a Griffe extension).

Griffe, which reads the docstrings for mkdocstrings, takes indented `Examples:` for
code. In this project the line is `Example:`, and what follows is not indented.
"""

import re
import textwrap

import griffe

_SECTION = re.compile(r"^Example:\n(.*?)(?=^[A-Z]\w*:$|\Z)", re.S | re.M)


class DocstringExamples(griffe.Extension):
    """Renames and indents the section before it is parsed."""

    def on_object(self, *, obj, **kwargs):
        if obj.docstring is not None:
            obj.docstring.value = _SECTION.sub(_indented, obj.docstring.value)


def _indented(match):
    return "Examples:\n" + textwrap.indent(match[1].strip("\n"), "    ") + "\n"
