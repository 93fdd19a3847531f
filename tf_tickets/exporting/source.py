"""The model to export, with its masks and provenance."""

import dataclasses
from typing import Any

import keras
import numpy as np

from tf_tickets import arguments, wrapping
from tf_tickets.tickets.ticket import Ticket
from tf_tickets.wrapping import graphs, paths


@dataclasses.dataclass(frozen=True)
class Subject:
    """Holds a model to export.

    Args:
        plain: The model without wrappers.
        given: The model passed by the user, which computes the expected outputs.
        masks: Dict from the index of a variable in `plain.variables` to its mask.
        provenance: Origin of the weights.

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
        """The fraction of zeros in variables of rank 2 or more."""
        kernels = [a for a in self.arrays() if a.ndim > 1]
        size = sum(kernel.size for kernel in kernels)
        kept = sum(np.count_nonzero(kernel) for kernel in kernels)
        return float(1 - kept / size) if size else 0.0

    def arrays(self) -> list[np.ndarray]:
        """Returns the values of the plain model's variables."""
        return [keras.ops.convert_to_numpy(v.value) for v in self.plain.variables]

    def wrapped(self) -> keras.Model:
        """Returns the model with wrappers around all masked layers."""
        if wrapping.prunables(self.given):
            return self.given
        if not graphs.is_graph(self.plain):
            raise ValueError(
                f"{self.plain.name!r} is a subclassed model, which can only be wrapped "
                "in place. Wrap it and call its save(path), or export a trainable "
                "SavedModel."
            )
        variables = self.plain.variables
        masks = {i: mask for i, mask in self.masks.items() if not mask.all()}
        model = wrapping.wrap_kernels(self.plain, [variables[i] for i in masks])
        names = {id(v): path for path, v in wrapping.plain_paths(model).items()}
        by_path = {names[id(variables[i])]: mask for i, mask in masks.items()}
        wrapping.kernels(model).set_masks(by_path)
        return model


def of(exported: keras.Model | Ticket, model: keras.Model | None = None) -> Subject:
    """Returns the `Subject` of a model or ticket.

    Args:
        exported: A plain model, a wrapped model, or a ticket.
        model: The model trained from the ticket. Required with a ticket.
    """
    if isinstance(exported, Ticket):
        return _of_ticket(exported, model)
    if not isinstance(exported, keras.Model):
        raise TypeError(
            "Pass a Keras model, or a Ticket and its `model`. Received: "
            f"{arguments.shown(exported)}"
        )
    if model is not None:
        raise TypeError(
            "`model` is only valid with a Ticket. Received: exported="
            f"{arguments.shown(exported)}, model={arguments.shown(model)}. Omit "
            "`model`, or pass a Ticket."
        )
    return _of_model(exported)


def _of_model(model):
    if not model.built:
        raise ValueError(
            f"The model must be built. Received: {arguments.shown(model)}, which has "
            "no weights to export. Call it once, or add a keras.Input."
        )
    if not wrapping.prunables(model):
        plain = model
        if graphs.is_graph(model):
            plain = wrapping.without_augmentation(model)
        # A kernel of only zeros was initialized with zeros, not pruned.
        kernels = [(i, a) for i, a in enumerate(_values(plain)) if a.ndim > 1]
        masks = {i: a != 0 for i, a in kernels if a.any()}
        return Subject(plain, model, masks, {})
    if not graphs.is_graph(model):
        raise ValueError(
            f"{model.name!r} is a wrapped subclassed model, which can only be stripped "
            "in place. Call tf_tickets.strip(model), then export it."
        )
    plain = wrapping.stripped_copy(model)
    return Subject(plain, model, _by_index(wrapping.kernels(model).masks, plain), {})


def _of_ticket(ticket, model):
    if not isinstance(model, keras.Model):
        raise TypeError(
            "A ticket is exported with the model that was trained from it: "
            "export(ticket, path, model=model). Received: "
            f"model={arguments.shown(model)}"
        )
    subject = _of_model(model)
    masks = _by_index(ticket.masks, subject.plain)
    values = subject.arrays()
    nonzero = sum(np.count_nonzero(values[i][~mask]) for i, mask in masks.items())
    if nonzero:
        raise ValueError(
            "The model must be trained from the ticket. Received: a `model` in which "
            f"{nonzero} weights that the ticket prunes are not zero. Train it with "
            "ticket.train(model, ...) or tf_tickets.train_ticket."
        )
    origin = {**ticket.provenance, "ticket": ticket.id, "metrics": ticket.metrics}
    origin.pop("model", None)
    return dataclasses.replace(subject, masks=masks, provenance=origin)


def _by_index(masks, plain):
    """Returns masks by the indices of their variables in the plain model."""
    table = wrapping.plain_paths(plain)
    names = paths.match(masks, table)
    if names is None:
        raise ValueError(
            f"The masks do not match the model. Received: masks for {sorted(masks)}. "
            f"The model has the variables {sorted(table)}."
        )
    indices = {id(variable): i for i, variable in enumerate(plain.variables)}
    return {
        indices[id(table[names[path]])]: np.asarray(mask, bool)
        for path, mask in masks.items()
    }


def _values(model):
    return [keras.ops.convert_to_numpy(v.value) for v in model.variables]
