"""Trains tickets the way the search trained them."""

import functools
import hashlib
import json
from collections.abc import Callable, Iterable
from typing import NamedTuple

import keras
import numpy as np

from tf_tickets import arguments, wrapping
from tf_tickets.search import identity, inputs
from tf_tickets.structures.structure import Structure, Unstructured
from tf_tickets.tickets.ticket import Ticket
from tf_tickets.training import snapshots
from tf_tickets.training.fidelity import Fidelity
from tf_tickets.wrapping import paths


class _Built(NamedTuple):
    """A model of one kind of masks, its first state, and whose kernels it prunes."""

    mask: str
    structure: Structure
    by_default: bool
    model: keras.Model
    start: snapshots.State

    def has(self, kernels):
        """Whether the prunable kernels are those with some paths."""
        present = wrapping.kernels(self.model).variables
        names = None if kernels is None else paths.match(kernels, present)
        return names is not None and len(names) == len(present)


class TicketTrainer:
    """Trains one ticket after the other with one compiled model.

    Data order and seeds are those of `find_tickets` for the ticket's round, so a ticket
    and its controls are trained under the same conditions. Random layers, such as
    dropout, begin anew, but go on from round to round in a search: there, a ticket then
    has other metrics, unless the search rewinds with the fidelity "exact".

    Args:
        build_model: Function without arguments that returns a compiled model.
        data: As in `find_tickets`.
        seed: As in `find_tickets`.
        batch_size: Batch size of arrays, 32 by default.

    Example:

    >>> def build():
    ...     model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    ...     model.compile("adam", "mse")
    ...     return model
    >>> x, y = np.ones((8, 4)), np.ones((8, 2))
    >>> search = tt.IMP(rounds=1, epochs_per_round=1, rate=0.5, monitor="val_loss")
    >>> data = ((x, y), (x, y))
    >>> found = tt.find_tickets(build, data, search, batch_size=4, verbose=0)
    >>> trainer = TicketTrainer(build, data, batch_size=4)
    >>> trainer.train(found[0], epochs=1)["val_loss"] == found[0].metrics["val_loss"]
    True
    """

    def __init__(
        self,
        build_model: Callable[[], keras.Model],
        data: inputs.Data,
        seed: int = 0,
        batch_size: int | None = None,
    ) -> None:
        arguments.check_build(build_model)
        seed, batch_size = inputs.check_fit(seed, batch_size)
        self.opened = inputs.Inputs(data, seed, batch_size)
        self.seed = seed
        self.batch_size = self.opened.batch_size
        self.build_model = build_model
        self._built: list[_Built] = []
        self._present: _Built | None = None
        self._key = (seed, 0, 0)
        self._feed = self.opened.feed(lambda: self._key)

    @functools.cached_property
    def setting(self) -> str:
        """A digest of what trainings depend on beside the ticket and its weights."""
        content = identity.identity_of_training(self._of("fixed").model, self.opened)
        # The ticket has the first weights.
        del content["model"]["weights"]
        text = json.dumps(identity.without_names(content), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _of(self, mask, kernels=None, structure=Unstructured()):  # noqa: B008  frozen
        """Returns a model with such masks; each is built once, from equal weights.

        The masks are those of some kernels, by default of all that `wrap` chooses.
        """
        settings = _settings(structure)
        for built in self._built:
            by_default = kernels is None and built.by_default
            fits = built.mask == mask and _settings(built.structure) == settings
            if fits and (by_default or built.has(kernels)):
                return built
        keras.utils.set_random_seed(self.seed)
        wrap = wrapping.wrap if kernels is None else _wrapping_of(kernels)
        wrap = functools.partial(wrap, mask=mask, structure=structure)
        model, _ = inputs.build(self.build_model, wrap)
        built = _Built(mask, structure, kernels is None, model, snapshots.record(model))
        self._built.append(built)
        return built

    def train(
        self,
        ticket: Ticket,
        epochs: int,
        callbacks: Iterable[keras.callbacks.Callback] = (),
        verbose: str | int = 0,
    ) -> dict[str, float]:
        """Applies the ticket, trains it, and returns its metrics.

        Returns:
            Dict of the metrics after the last epoch; `test_*` with test data.
        """
        arguments.check_type(Ticket, ticket=ticket)
        arguments.check_counts(epochs=epochs)
        inputs.check_fit(self.seed, self.batch_size, verbose)
        callbacks = arguments.listed(keras.callbacks.Callback, callbacks=callbacks)
        origin = ticket.provenance
        mask = "scaled" if ticket.scales else "fixed"
        self._present = self._of(mask, ticket.masks, ticket.structure)
        start = self._present.start
        round_, first = origin.get("order") or (origin.get("round", 0), 0)
        # Learning rate and seeds too: earlier trainings must not matter.
        snapshots.restore(self.model, start, Fidelity.get("exact"), start)
        ticket.apply(self.model)
        self._check_free()
        self.opened.check(self.model, epochs)
        keras.utils.set_random_seed(inputs.round_seed(self.seed, round_))
        follow = keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: self._follow(round_, first + epoch)
        )
        history = self.opened.fit(
            self.model,
            self._feed,
            [follow, *callbacks],
            epochs=epochs,
            verbose=verbose,
        )
        metrics = {name: float(values[-1]) for name, values in history.history.items()}
        return metrics | self.opened.test_metrics(self.model)

    def dense_ticket(self) -> Ticket:
        """Returns a ticket that keeps all weights of the network as it was built."""
        self._present = self._of("fixed")
        masks = {path: np.ones(v.shape, bool) for path, v in self._kernels.items()}
        weights = snapshots.start_weights(self.model, self._present.start)
        return Ticket(masks, weights, {}, {"round": 1, "order": (1, 0)})

    @property
    def model(self) -> keras.Model:
        """The wrapped model of the last training."""
        if self._present is None:
            raise RuntimeError(
                "No ticket has been trained, so there is no model. Call train(ticket, "
                "epochs) first."
            )
        return self._present.model

    @property
    def _kernels(self):
        return wrapping.kernels(self.model).variables

    def _check_free(self):
        if not any(v.trainable for v in self._kernels.values()):
            raise ValueError(
                "All kernels of the model are frozen, so the ticket cannot be trained. "
                "`build_model` must return a plain model, not one of Supermask.wrap."
            )

    def _follow(self, round_, epoch):
        self._key = (self.seed, round_, epoch)


def _settings(structure):
    """Returns all settings of a structure, also those by which none is compared."""
    return type(structure), structure.get_config()


def _wrapping_of(kernels):
    """Returns a function that wraps the kernels with some paths in a plain model."""

    def wrap(model, mask, structure, verbose):
        table = wrapping.plain_paths(model)
        names = paths.match(kernels, table) or {}
        # If they are not those of the model, `Ticket.apply` names all differences.
        if not names:
            return wrapping.wrap(model, mask=mask, structure=structure, verbose=verbose)
        variables = [table[name] for name in names.values()]
        return wrapping.wrap_kernels(model, variables, mask, structure)

    return wrap


def train_ticket(
    build_model: Callable[[], keras.Model],
    data: inputs.Data,
    ticket: Ticket,
    epochs: int,
    seed: int = 0,
    *,
    batch_size: int | None = None,
    verbose: str | int = "auto",
) -> tuple[keras.Model, dict[str, float]]:
    """Trains a ticket; returns the wrapped model and its metrics.

    Args:
        build_model: Function without arguments that returns a compiled model.
        data: As in `find_tickets`.
        ticket: The ticket to train, or a control made from it. It must have all weights
            of the model; for a ticket of another model, pass what `Ticket.transfer`
            returns.
        epochs: How many epochs.
        seed: Seed of data order and random layers.
        batch_size: Batch size of arrays, 32 by default.
        verbose: As in `model.fit`.

    Returns:
        The trained, wrapped model, and the dict of its metrics.
    """
    arguments.check_type(Ticket, ticket=ticket)
    arguments.check_counts(epochs=epochs)
    inputs.check_fit(seed, batch_size, verbose)
    trainer = TicketTrainer(build_model, data, seed, batch_size)
    metrics = trainer.train(ticket, epochs, verbose=verbose)
    return trainer.model, metrics
