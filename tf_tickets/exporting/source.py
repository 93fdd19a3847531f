"""What is exported: a plain model, its masks, and where it comes from."""

import dataclasses
from typing import Any

import keras
import numpy as np

from tf_tickets import wrapping
from tf_tickets.tickets.ticket import Ticket
from tf_tickets.wrapping import paths, rebuilding


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model that can be written.

    Args:
        plain: The model without wrappers.
        given: The model as it was given, which says what is expected.
        masks: Dict from the place of a variable in `plain.variables` to its mask.
        provenance: Where it comes from.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    >>> subject = of(wrapping.wrap(model, verbose=False))
    >>> sorted(subject.masks), subject.sparsity
    ([0], 0.0)
    """

    plain: keras.Model
    given: keras.Model
    masks: dict[int, np.ndarray]
    provenance: dict[str, Any]

    @property
    def sparsity(self) -> float:
        """Fraction of zeros in what has rank 2 or more."""
        kernels = [a for a in self.arrays() if a.ndim > 1]
        size = sum(kernel.size for kernel in kernels)
        kept = sum(np.count_nonzero(kernel) for kernel in kernels)
        return float(1 - kept / size) if size else 0.0

    def arrays(self) -> list[np.ndarray]:
        """The values of the plain model's variables."""
        return [keras.ops.convert_to_numpy(v.value) for v in self.plain.variables]

    def wrapped(self) -> keras.Model:
        """The model with wrappers around what has a mask with zeros."""
        if wrapping.prunables(self.given):
            return self.given
        if not rebuilding.is_graph(self.plain):
            raise ValueError(
                f"{self.plain.name!r} is a subclassed model, whose `.keras` file does "
                "not keep wrappers. Keep its weights and a ticket, or export a "
                "SavedModel to train on."
            )
        variables = self.plain.variables
        masks = {i: mask for i, mask in self.masks.items() if not mask.all()}
        model = wrapping.wrap_kernels(self.plain, [variables[i] for i in masks])
        names = {id(v): path for path, v in wrapping.plain_paths(model).items()}
        found = {names[id(variables[i])]: mask for i, mask in masks.items()}
        wrapping.kernels(model).set_masks(found)
        return model


def of(exported: keras.Model | Ticket, model: keras.Model | None = None) -> Subject:
    """What is to be written.

    Args:
        exported: A plain or a wrapped model, or a ticket.
        model: With a ticket, the model that was trained from it.
    """
    if isinstance(exported, Ticket):
        return _of_ticket(exported, model)
    if not isinstance(exported, keras.Model):
        raise TypeError(
            "Give a Keras model, or a Ticket and its `model`. Received: "
            f"{type(exported).__name__}"
        )
    if model is not None:
        raise TypeError("`model` is given with a Ticket. Received two models.")
    return _of_model(exported)


def _of_model(model):
    if not model.built:
        raise ValueError(
            f"{model.name!r} is not built, so it has no weights to write. Call it "
            "once, or give it a keras.Input."
        )
    if not wrapping.prunables(model):
        # A kernel of nothing but zeros is one that begins so, not one that was pruned.
        kernels = [(i, a) for i, a in enumerate(_values(model)) if a.ndim > 1]
        masks = {i: a != 0 for i, a in kernels if a.any()}
        return Subject(model, model, masks, {})
    if not rebuilding.is_graph(model):
        raise ValueError(
            f"{model.name!r} is a wrapped subclassed model, which can only be stripped "
            "in place. Call tf_tickets.strip(model), then export it."
        )
    plain = wrapping.stripped_copy(model)
    return Subject(plain, model, _placed(wrapping.kernels(model).masks, plain), {})


def _of_ticket(ticket, model):
    if not isinstance(model, keras.Model):
        raise TypeError(
            "A ticket is exported with the model that was trained from it: "
            f"export(ticket, path, model=model). Received: model={model!r}"
        )
    found = _of_model(model)
    masks = _placed(ticket.masks, found.plain)
    values = found.arrays()
    alive = sum(np.count_nonzero(values[i][~mask]) for i, mask in masks.items())
    if alive:
        raise ValueError(
            f"{alive} weights that the ticket prunes are not zero in the model, which "
            "was not trained from it. Train it: tf_tickets.train_ticket, or "
            "ticket.apply(model) and model.fit."
        )
    origin = {**ticket.provenance, "ticket": ticket.id, "metrics": ticket.metrics}
    origin.pop("model", None)
    return dataclasses.replace(found, masks=masks, provenance=origin)


def _placed(masks, plain):
    """The masks by the places of their variables in the plain model."""
    table = wrapping.plain_paths(plain)
    names = paths.match(masks, table)
    if names is None:
        raise ValueError(
            f"The masks do not fit the model: masks of {sorted(masks)}, variables "
            f"{sorted(table)}."
        )
    place = {id(variable): i for i, variable in enumerate(plain.variables)}
    found = {place[id(table[names[p]])]: mask for p, mask in masks.items()}
    return {i: np.asarray(mask, bool) for i, mask in found.items()}


def _values(model):
    return [keras.ops.convert_to_numpy(v.value) for v in model.variables]
