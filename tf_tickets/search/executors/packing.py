"""Objects that travel to other processes, also functions of programs and notebooks."""

import pickle
import sys
from collections.abc import Mapping
from typing import Any

from tf_tickets import arguments


class Packed:
    """An object as bytes, which another process unpacks.

    Functions and classes of a program or notebook travel by value, if cloudpickle is
    installed or Ray is loaded.

    Args:
        value: The object.
        parts: The objects it consists of, by the names that an error message uses.

    Example:

    >>> Packed({"rate": 0.5}, {}).unpack()
    {'rate': 0.5}
    """

    def __init__(self, value: Any, parts: Mapping[str, Any]) -> None:
        try:
            self.content = _pickler().dumps(value)
        except Exception as error:
            raise cannot_travel(parts, error) from error

    def unpack(self) -> Any:
        """Returns a new object."""
        return pickle.loads(self.content)


def cannot_travel(parts: Mapping[str, Any], error: Exception) -> TypeError:
    """Returns an error that names the parts that cannot be pickled.

    Args:
        parts: Objects by name.
        error: What was raised for all of them.

    Example:

    >>> str(cannot_travel({"data": (i for i in "ab")}, TypeError("a generator")))
    "`data` cannot be sent to another process: a generator..."
    """
    names = [name for name, part in parts.items() if not travels(part)] or [*parts]
    cause = str(error).rstrip(". ")
    text = " and ".join(f"`{name}`" for name in names)
    shown = ", ".join(arguments.shown(parts[name]) for name in names)
    return TypeError(
        f"{text} cannot be sent to another process: {cause}. It must be picklable. "
        "Pass a function that makes a tf.data.Dataset or generator, or use "
        f"executor='serial'. Received: {shown}"
    )


def travels(part: Any) -> bool:
    """Returns whether an object can be sent to another process.

    Example:

    >>> travels([1]), travels(i for i in "ab")
    (True, False)
    """
    try:
        _pickler().dumps(part)
    except Exception:
        return False
    return True


def _pickler():
    """Returns a module with `dumps`, the most capable one that there is.

    Ray has a cloudpickle of its own. All objects must travel by the same, or a class of
    a program would arrive as two different classes.
    """
    if "ray.cloudpickle" in sys.modules:
        return sys.modules["ray.cloudpickle"]
    try:
        import cloudpickle
    except ImportError:
        return pickle
    return cloudpickle
