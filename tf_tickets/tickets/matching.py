"""Finds the variables of another model that the paths of a ticket belong to."""

import difflib
import operator
import re
from collections.abc import Callable, Collection, Iterable, Mapping

import keras

from tf_tickets import arguments
from tf_tickets.wrapping import paths

# Path of the source to path of the target.
Rename = Mapping[str | re.Pattern[str], str]

_RULE = (
    "Keys are paths or their first parts, such as {'conv1': 'backbone/conv1'}, or "
    "compiled regular expressions, such as {re.compile(r'conv(\\d)/(.*)'): "
    "r'block\\1/conv/\\2'}"
)


def check_rename(rename: Rename | None) -> None:
    """Refuses what is no dict from paths or patterns to paths.

    Example:

    >>> check_rename({"conv": "backbone/conv"})
    """
    if rename is None:
        return
    if not isinstance(rename, Mapping):
        raise TypeError(
            f"`rename` must be a dict. Received: {arguments.shown(rename)}. {_RULE}."
        )
    for key, value in rename.items():
        is_text_pattern = isinstance(key, re.Pattern) and isinstance(key.pattern, str)
        if not (is_text_pattern or isinstance(key, str)) or not isinstance(value, str):
            raise TypeError(
                "`rename` must map paths or compiled regular expressions to paths. "
                f"Received: {arguments.shown(key)}: {arguments.shown(value)}. {_RULE}."
            )


def renamed(rename: Rename | None, wanted: Collection[str]) -> dict[str, str]:
    """Returns the new path of each path that an entry of `rename` fits.

    A string fits the path that is equal to it, and all paths that begin with it and a
    slash; of several the longest counts. The empty string fits all. A compiled regular
    expression must match the whole path.

    Args:
        rename: Dict from path or pattern to the new path.
        wanted: The paths of the ticket.

    Example:

    >>> renamed({"net": "backbone"}, ["net/a/kernel", "head/kernel"])
    {'net/a/kernel': 'backbone/a/kernel'}
    >>> import re
    >>> renamed({re.compile(r"conv(\\d)/(.*)"): r"block\\1/\\2"}, ["conv3/kernel"])
    {'conv3/kernel': 'block3/kernel'}
    """
    check_rename(rename)
    if not rename:
        return {}
    new, unused = {}, dict.fromkeys(rename)
    for path in wanted:
        key = _entry(rename, path)
        if key is not None:
            unused.pop(key, None)
            new[path] = _new(path, key, rename[key])
    _check_used(list(unused), wanted)
    _check_targets(new)
    return new


def distinct_names(rename: Rename | None, wanted: Collection[str]) -> dict[str, str]:
    """Returns the new or unchanged name of each path; refuses equal names.

    Args:
        rename: Dict from path or pattern to the new path.
        wanted: The paths of the ticket.

    Example:

    >>> distinct_names({"a": "c"}, ["a/kernel", "b/kernel"])
    {'a/kernel': 'c/kernel', 'b/kernel': 'b/kernel'}
    """
    new = renamed(rename, wanted)
    names = {path: new.get(path, path) for path in wanted}
    taken: dict[str, str] = {}
    for path, name in names.items():
        if taken.setdefault(name, path) != path:
            raise ValueError(
                f"`rename` leads from {taken[name]!r} to {name!r}, which the ticket "
                f"has as {path!r}. Rename that path too."
            )
    return names


def _entry(rename, path):
    """Returns the key that fits a path, or None; refuses several."""
    patterns = [k for k in rename if isinstance(k, re.Pattern) and k.fullmatch(path)]
    parts = [k for k in rename if isinstance(k, str) and _begins(path, k)]
    longest = max((len(k.rstrip("/")) for k in parts), default=0)
    parts = [k for k in parts if len(k.rstrip("/")) == longest]
    fitting = [*patterns, *parts]
    if len(fitting) > 1:
        raise ValueError(
            f"Several entries of `rename` fit path {path!r}. Received: "
            f"{[_text(k) for k in fitting]}. Of strings the longest counts; apart from "
            "that a path must fit one entry only."
        )
    return fitting[0] if fitting else None


def _begins(path, key):
    key = key.rstrip("/")
    return not key or path == key or path.startswith(f"{key}/")


def _new(path, key, value):
    if isinstance(key, str):
        rest = path[len(key.rstrip("/")) :].lstrip("/")
        return "/".join(part for part in (value.rstrip("/"), rest) if part)
    match = key.fullmatch(path)
    try:
        return match.expand(value)
    except (re.error, IndexError) as error:
        raise ValueError(
            "A value of `rename` must be a replacement for its regular expression. "
            f"Received: {_text(key)}: {value!r}, where {error}. Groups are written as "
            r"r'\1' or r'\g<name>'."
        ) from None


def _text(key):
    return f"re.compile({key.pattern!r})" if isinstance(key, re.Pattern) else repr(key)


def _check_used(unused, wanted):
    if unused:
        rows = [_text(key) for key in unused]
        texts = [k.pattern if isinstance(k, re.Pattern) else k for k in unused]
        raise ValueError(
            f"Entries of `rename` fit no path of the ticket. Received: {rows}. "
            f"{nearest(texts, wanted)}Keys are whole parts of paths of the ticket, or "
            "compiled regular expressions that match whole paths."
        )


def _check_targets(new):
    sources: dict[str, list[str]] = {}
    for path, target in new.items():
        sources.setdefault(target, []).append(path)
    for target, several in sources.items():
        if len(several) > 1:
            raise ValueError(
                f"`rename` leads from several paths to {target!r}. Received: {several}."
                " Each path of the ticket needs a path of its own."
            )


def check_leads(
    rename: Rename,
    new: Mapping[str, str],
    available: Collection[str],
    target: str,
    hint: str = "",
) -> None:
    """Refuses entries of `rename` that lead to none of the available paths.

    Args:
        rename: The entries.
        new: What `renamed` returned.
        available: The paths of the model or of the other ticket.
        target: What has these paths, such as "model 'net'".
        hint: The end of the message.

    Example:

    >>> check_leads({"a": "b"}, {"a/kernel": "b/kernel"}, ["b/kernel"], "model 'net'")
    """
    leads: dict[str | re.Pattern[str], list[str]] = {}
    for path, name in new.items():
        key = _entry(rename, path)
        if key is not None:
            leads.setdefault(key, []).append(name)
    for key, names in leads.items():
        if not set(names) & set(available):
            message = (
                f"An entry of `rename` leads to no variable of {target}. "
                f"Received: {_text(key)}: {rename[key]!r}, which leads to "
                f"{names[:3]}. {nearest(names, available)}{hint}"
            )
            raise ValueError(message.rstrip())


def nearest(wanted: Iterable[str], available: Iterable[str]) -> str:
    """Returns a sentence with the names that are most like some others, or "".

    Example:

    >>> nearest(["conv1/kernel"], ["conv_1/kernel", "head/bias"])
    'Nearest: conv_1/kernel. '
    """
    available = list(available)
    rows: dict[str, None] = {}
    for name in wanted:
        rows.update(dict.fromkeys(difflib.get_close_matches(name, available, 1, 0.5)))
    return f"Nearest: {', '.join(list(rows)[:3])}. " if rows else ""


def automatic_names(model: keras.Model) -> set[str]:
    """Returns the names of layers that Keras made from their classes, and numbered.

    Example:

    >>> layers = [keras.layers.Dense(2), keras.layers.Dense(2, name="block_1")]
    >>> model = keras.Sequential([keras.Input((3,)), *layers], name="net")
    >>> layers[0].name in automatic_names(model), "block_1" in automatic_names(model)
    (True, False)
    """
    return {
        layer.name
        for layer in paths.walk(model)
        if re.fullmatch(rf"{_snake_case(type(layer).__name__)}(_\d+)?", layer.name)
    }


def _snake_case(name):
    """Returns the name that Keras gives to layers of a class."""
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def match_partly(
    wanted: Collection[str],
    available: Collection[str],
    automatic: Collection[str],
    complete: bool = False,
    fits: Callable[[str, str], bool] | None = None,
) -> tuple[dict[str, str], dict[str, str]]:
    """Matches the names that have a counterpart in another model.

    If all names match as in `wrapping.paths.match`, these are the pairs. Otherwise
    equal names belong together. Names that Keras has numbered are compared without
    numbers, in order, if both models have as many; names with other first parts
    belong together if there is only one such pair.

    Args:
        wanted: Names to look up.
        available: Names to search.
        automatic: Names of layers that Keras made.
        complete: Whether `wanted` has all variables of its model. Equal numbers then
            only belong together if they begin with the first layer of both models.
        fits: Whether a wanted and an available variable have the same shape. Only such
            ones are proposed where there is a choice. None if shapes are unknown.

    Returns:
        Dict from wanted to available name, and dict from each other wanted name to the
        reason.

    Example:

    >>> match_partly(["net/a/kernel", "net/b/kernel"], ["top/net/a/kernel"], ())
    ({'net/a/kernel': 'top/net/a/kernel'}, {'net/b/kernel': 'no such variable'})
    """
    whole = paths.match(wanted, available)
    begins = complete and bool(shifted(wanted, available, automatic))
    if whole is not None and not begins:
        return whole, {}
    pairs = {
        path: path
        for path in wanted
        if path in available and not _is_numbered(path, automatic)
    }
    several: dict[str, list[str]] = {}
    for are_alike in (operator.eq, paths.is_suffix):
        _pair(pairs, several, wanted, available, are_alike, begins)
    reasons = {}
    for path in wanted:
        if path in several:
            reasons[path] = _why_several(path, several[path], fits)
        elif path not in pairs:
            reasons[path] = "no such variable"
    return {path: pairs[path] for path in wanted if path in pairs}, reasons


def _why_several(path, candidates, fits):
    """Says which of several variables may be meant."""
    if fits is not None:
        candidates = [name for name in candidates if fits(path, name)]
        if not candidates:
            return "no such variable of this shape"
        if len(candidates) == 1:
            return f"probably {candidates[0]}, by its shape; confirm it with `rename`"
    names = ", ".join(candidates[:3])
    return f"it may be any of {names}; choose one with `rename`"


def shifted(
    wanted: Iterable[str], available: Iterable[str], automatic: Collection[str]
) -> list[str]:
    """Returns names whose numbers may have begun with another layer.

    They are those with numbers of Keras that are available, among more names of the
    kind, but not as the first ones.

    Args:
        wanted: All names of one model, in order.
        available: All names of another one, in order.
        automatic: Names of layers that Keras made.

    Example:

    >>> two, three = ["dense_1/k", "dense_2/k"], ["dense/k", "dense_1/k", "dense_2/k"]
    >>> shifted(two, three, ["dense", "dense_1", "dense_2"])
    ['dense_1/k', 'dense_2/k']
    >>> shifted(["dense/k", "dense_1/k"], three, ["dense", "dense_1", "dense_2"])
    []
    """
    theirs = _groups(path for path in available if _is_numbered(path, automatic))
    rows = []
    for end, names in _groups(wanted).items():
        others = theirs.get(end, [])
        is_part = set(names) <= set(others) and len(names) < len(others)
        if is_part and not _are_first(names, others):
            rows += names
    return rows


def _is_numbered(path, automatic):
    return not set(path.split("/")[:-1]).isdisjoint(automatic)


def _are_first(names, others):
    return set(names) == set(others[: len(names)])


def _pair(pairs, several, wanted, available, fits, begins):
    """Adds pairs of names without numbers that fit, if there is no other choice."""
    seen, used = pairs.keys() | several, set(pairs.values())
    ours = _groups(path for path in wanted if path not in seen)
    theirs = _groups(path for path in available if path not in used)
    found = {end: [name for name in theirs if fits(end, name)] for end in ours}
    for end, names in found.items():
        rivals = [
            other for other, theirs_ in found.items() if set(names) & set(theirs_)
        ]
        candidates = [path for name in names for path in theirs[name]]
        agree = _agree(ours[end], candidates, begins)
        if len(names) == len(rivals) == 1 and agree:
            order = ours[end] if set(ours[end]) <= set(candidates) else candidates
            pairs.update(zip(ours[end], order, strict=True))
        elif candidates:
            several.update(dict.fromkeys(ours[end], candidates))


def _agree(ours, theirs, begins):
    if len(ours) == len(theirs):
        return True
    return _are_first(ours, theirs) if begins else set(ours) <= set(theirs)


def _groups(names):
    """Returns names by their names without numbers."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(paths.bare(name), []).append(name)
    return groups
