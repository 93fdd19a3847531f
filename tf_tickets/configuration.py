"""Settings: constructor arguments that cannot change, and the configuration of them."""

import copy
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Self

import keras
import numpy as np


class Configured:
    """An object whose constructor arguments are attributes that cannot change.

    Everything that is derived from a setting, such as a ticket's provenance, stays
    true, since no setting can be changed after construction. `get_config` returns all
    of them; `from_config` makes an equal object.

    A subclass assigns each constructor argument to the attribute of the same name. For
    settings that Keras cannot serialize, `_serializers` maps their names to functions.

    Example:

    >>> class Half(Configured):
    ...     def __init__(self, rate=0.5):
    ...         self.rate = rate
    >>> half = Half(0.25)
    >>> half.get_config()
    {'rate': 0.25}
    >>> half.rate = 0.75
    Traceback (most recent call last):
    AttributeError: `rate` of Half cannot change: it is 0.25, received 0.75...
    """

    _serializers: Mapping[str, Callable[[Any], Any]] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        cls = type(self)
        is_setting = name in argument_names(cls)
        if is_setting and _is_set(self, name):
            raise AttributeError(
                f"`{name}` of {cls.__name__} cannot change: it is "
                f"{getattr(self, name)!r}, received {value!r}. Make a new object: "
                f"{cls.__name__}.from_config({{**old.get_config(), {name!r}: value}})."
            )
        super().__setattr__(name, value)

    def get_config(self) -> dict[str, Any]:
        return {
            name: self._serializers.get(name, serialized)(getattr(self, name))
            for name in argument_names(type(self))
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        # Keras writes into the configurations that it reads.
        settings = copy.deepcopy(config)
        return cls(**{name: restored(value) for name, value in settings.items()})


def _is_set(configured, name):
    """Whether a setting has its value, or is a property that cannot be assigned."""
    is_property = isinstance(getattr(type(configured), name, None), property)
    return name in vars(configured) or is_property


def argument_names(cls: type) -> tuple[str, ...]:
    """Returns the names of a constructor's arguments.

    Example:

    >>> argument_names(tt.schedules.IterativeRate)
    ('rate', 'begin_step', 'end_step', 'frequency')
    """
    return _argument_names(cls)


@functools.cache
def _argument_names(cls):
    parameters = inspect.signature(cls).parameters.values()
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return tuple(p.name for p in parameters if p.kind not in kinds)


def defaults(cls: type) -> dict[str, Any]:
    """Returns the default values of a constructor's arguments.

    Example:

    >>> defaults(tt.schedules.IterativeRate)["frequency"]
    100
    """
    parameters = inspect.signature(cls).parameters
    return {name: parameters[name].default for name in argument_names(cls)}


def serialized(value: Any) -> Any:
    """Returns a value as JSON can hold it and `restored` reads it.

    Example:

    >>> serialized({"output": np.float64(0.5)})
    {'output': 0.5}
    """
    if isinstance(value, Mapping):
        return {key: serialized(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [serialized(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return keras.saving.serialize_keras_object(value)


def restored(value: Any) -> Any:
    """Returns the value that `serialized` was given.

    Example:

    >>> schedule = tt.schedules.IterativeRate(0.2, begin_step=0)
    >>> restored(serialized(schedule)).rate
    0.2
    """
    if isinstance(value, list):
        return [restored(item) for item in value]
    if isinstance(value, dict) and {"class_name", "config"} <= set(value):
        return keras.saving.deserialize_keras_object(value)
    return value


def described(configured: Configured) -> dict[str, Any]:
    """Returns the settings for people and comparisons: functions by name.

    Unlike `get_config` it never refuses a function that is not registered.

    Example:

    >>> described(tt.IMP(criterion=lambda weight: abs(weight)))["criterion"]
    '<lambda>'
    """
    settings = {}
    for name in argument_names(type(configured)):
        value = getattr(configured, name)
        is_function = callable(value) and not hasattr(value, "get_config")
        settings[name] = (
            getattr(value, "__name__", repr(value))
            if is_function
            else serialized(value)
        )
    return settings
