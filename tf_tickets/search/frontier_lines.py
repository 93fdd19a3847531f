"""Which searches of a frontier are one line of its picture."""

import json
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from tf_tickets import arguments

# Settings that say how many weights a search keeps.
_SPARSITIES = ("final_sparsity", "sparsity", "target")
_SETTING = re.compile(
    rf"(?:^|(?<=\s))({'|'.join(_SPARSITIES)})=(\{{[^}}]*\}}|[^\s,]+),?\s*"
)


def lines_of(
    labels: Iterable[str], searches: Mapping[str, Any], named: Mapping[str, str]
) -> dict[str, str]:
    """Returns a dict from the label of each search to the name of its line.

    Searches that differ only in the sparsity to reach are one line, named after what
    their labels have in common. Without settings, labels decide that differ only in
    words such as "final_sparsity=0.9".

    Args:
        labels: The labels.
        searches: Dict from a label to the method and settings of its search, where
            known.
        named: Dict from a label to the name of its line, for some labels.

    Example:

    >>> labels = ["imp", "snip final_sparsity=0.9", "snip final_sparsity=0.95"]
    >>> list(lines_of(labels, {}, {}).values())
    ['imp', 'snip', 'snip']
    """
    labels = list(dict.fromkeys(labels))
    _check_named(labels, named)
    names = {label: named.get(label, label) for label in labels}
    groups: dict[str, list[str]] = {}
    for label in labels:
        if label not in named:
            groups.setdefault(_key(label, searches.get(label)), []).append(label)
    for group in groups.values():
        method = _method(searches.get(group[0]))
        if len(group) > 1 and _differ(group, searches):
            name = _common_name(group, method)
            # Another line may have that name.
            others = {names[label] for label in labels if label not in group}
            names |= dict.fromkeys(group, ", ".join(group) if name in others else name)
    return names


def _check_named(labels, named):
    arguments.check_table(str, str, lines=dict(named))
    unknown = sorted(set(named) - set(labels))
    if unknown:
        raise ValueError(
            f"`lines` must be a dict from labels of the searches, {labels}, to names "
            f"of lines. Received: {unknown}"
        )


def _method(settings):
    return settings.get("method") if isinstance(settings, Mapping) else None


def _key(label, settings):
    """What searches of one line have in common."""
    if not isinstance(settings, Mapping):
        return f"label {_SETTING.sub('', label).strip()}"
    others = {k: v for k, v in settings.items() if k not in (*_SPARSITIES, "seed")}
    return json.dumps(others, sort_keys=True, default=str)


def _differ(group, searches):
    """Whether the searches differ in the sparsity; the labels do."""
    known = [searches.get(label) for label in group]
    if not all(isinstance(settings, Mapping) for settings in known):
        return True
    kept = [json.dumps([s.get(n) for n in _SPARSITIES], default=str) for s in known]
    return len(set(kept)) == len(kept)


def _common_name(group, method):
    short = {_SETTING.sub("", label).strip() for label in group}
    if len(short) == 1:
        [name] = short
        return name or method or group[0].partition("=")[0].strip()
    # "snip 0.9" and "snip 0.95" share the word "snip" and a part of the next one.
    name = os.path.commonprefix(sorted(short)).rpartition(" ")[0].strip(" =_:,-")
    return name or method or ", ".join(group)
