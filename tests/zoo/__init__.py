"""Models that users have, each with data, and checks that run on all of them."""

import importlib
import pkgutil


def families():
    """Returns the modules of models by name: dict from name to `MODELS`."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    found = {name: importlib.import_module(f"zoo.{name}") for name in names}
    return {
        name: module.MODELS
        for name, module in found.items()
        if hasattr(module, "MODELS")
    }


def models():
    """Returns a dict from (family, name) to the builder of a case."""
    return {
        (family, name): build
        for family, builders in families().items()
        for name, build in builders.items()
    }
