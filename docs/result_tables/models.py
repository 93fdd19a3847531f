"""Which models pass which checks."""

from result_tables.reading import exists, grid, load, table

_BACKENDS = {"tensorflow": "TensorFlow", "jax": "JAX"}
_CHECKS = {
    "wrap_equal": "wrap",
    "fit": "fit",
    "keras_file": "`.keras`, wrapped",
    "ticket": "ticket",
    "strip_exact": "strip",
    "stripped_file": "`.keras`, stripped",
    "saved_model": "SavedModel",
    "tflite": "`.tflite`",
}
_FAMILIES = {
    "applications": "keras.applications",
    "attention": "attention",
    "convolution": "convolutions",
    "custom": "own layers and models",
    "generative": "generative models",
    "hub": "KerasHub",
    "recurrent": "recurrent networks",
    "settings": "settings",
}


def _found():
    """Returns the results by family, model, backend and check."""
    found = {}
    for backend in _BACKENDS:
        if exists(f"model_coverage_{backend}"):
            for row in load(f"model_coverage_{backend}")["rows"]:
                of_family = found.setdefault(row["family"], {})
                of_family.setdefault(row["name"], {})[backend] = row["checks"]
    return {family: found[family] for family in _FAMILIES if family in found}


@table
def model_coverage():
    """Models by checks, and why some checks cannot pass, numbered below."""
    notes = {}
    rows = []
    for family, models in _found().items():
        rows.append([f"**{_FAMILIES[family]}**", *[""] * len(_CHECKS)])
        for name, by_backend in models.items():
            cells = [_cell(by_backend, check, notes) for check in _CHECKS]
            rows.append([_title(name, by_backend), *cells])
    listed = [f"{number}. {reason}" for reason, number in notes.items()]
    return "\n".join([grid(["model", *_CHECKS.values()], rows), "", *listed])


def _title(name, by_backend):
    if len(by_backend) == len(_BACKENDS):
        return name
    return f"{name} ({', '.join(_BACKENDS[backend] for backend in by_backend)})"


def _cell(by_backend, check, notes):
    """Returns one mark where all backends agree, and else one for each."""
    marks = {
        backend: _mark(found[check], notes)
        for backend, found in by_backend.items()
        if check in found
    }
    if len(marks) == len(by_backend) and len(set(marks.values())) == 1:
        return next(iter(marks.values()))
    return ", ".join(f"{_BACKENDS[b]} {mark}" for b, mark in marks.items())


def _mark(result, notes):
    if "passed" in result:
        return "✓"
    reason = result.get("limit") or " ".join(result["error"].split())[:200]
    number = notes.setdefault(reason.replace("|", "\\|"), len(notes) + 1)
    return f"{'–' if 'limit' in result else '✗'} ({number})"


@table
def model_coverage_counts():
    """How many models pass each check, cannot pass it, and fail."""
    kinds = {"passed": "pass", "limit": "cannot", "error": "fail"}
    rows = []
    for check, title in _CHECKS.items():
        row = [title]
        for backend in _BACKENDS:
            results = [
                by_backend[backend][check]
                for models in _found().values()
                for by_backend in models.values()
                if check in by_backend.get(backend, {})
            ]
            row += [sum(kind in result for result in results) for kind in kinds]
        rows.append(row)
    titles = [f"{b}: {kind}" for b in _BACKENDS.values() for kind in kinds.values()]
    return grid(["check", *titles], rows)
