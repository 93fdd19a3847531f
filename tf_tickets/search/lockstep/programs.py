"""Programs of JAX that train or evaluate several networks at once."""

import hashlib
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from tf_tickets.training import batches


class Work(NamedTuple):
    """An epoch of steps, or an evaluation.

    Args:
        kind: "train" or "test".
        model: The model.
        arrays: The data.
        order: The rows of each batch, by step.
    """

    kind: str
    model: keras.Model
    arrays: tuple
    order: np.ndarray


class Programs:
    """The programs of a group, by what they compute.

    Two networks share a program if their steps are the same program of XLA, with the
    same constants. Numbers of a search that are variables, and seeds, may differ.
    """

    def __init__(self) -> None:
        self._texts: weakref.WeakKeyDictionary[
            keras.Model, dict[tuple[str, int], str]
        ] = weakref.WeakKeyDictionary()
        self._steps: dict[str, Callable[..., Any]] = {}
        self._programs: dict[tuple[str, int], Callable[..., Any]] = {}
        self._digests: dict[tuple[int, ...], tuple[str, tuple]] = {}
        self._data: dict[str, Any] = {}
        self._stack, self._unstack = _moving()

    def key(self, work: Work) -> tuple:
        """Returns what the works of one program have in common."""
        data = self._digest(work.arrays)
        return work.kind, self._text(work), work.order.shape, data

    def _text(self, work):
        """Returns a digest of the step's program."""
        known = self._texts.setdefault(work.model, {})
        number = work.kind, work.order.shape[1]
        if number not in known:
            import jax

            step = _step(work.model, work.kind)
            rows = work.order[0]
            batch = keras.tree.map_structure(lambda array: array[rows], work.arrays)
            lowered = jax.jit(step).lower(_state(work.model, work.kind), batch)
            text = hashlib.sha256(lowered.as_text().encode()).hexdigest()
            known[number] = text
            self._steps.setdefault(text, step)
        return known[number]

    def run(self, works: Sequence[Work]) -> None:
        """Does works with the same key, and assigns the results to their models."""
        first = works[0]
        states = [_state(work.model, work.kind) for work in works]
        program = self._program(self._text(first), len(works))
        orders = np.stack([work.order for work in works])
        arrays = self._on_device(first.arrays)
        if len(works) == 1:
            results = [program(states[0], arrays, orders[0])]
        else:
            results = self._unstack(program(self._stack(*states), arrays, orders))
        for work, result in zip(works, results, strict=True):
            _assign(work.model, work.kind, result)

    def forget_data(self) -> None:
        """Forgets all arrays, which may be others under the same ids later."""
        self._digests.clear()
        self._data.clear()

    def _digest(self, arrays):
        """Returns the digest of arrays; members may have copies of the same data."""
        leaves = keras.tree.flatten(arrays)
        number = tuple(map(id, leaves))
        if number not in self._digests:
            # With the arrays, so that their ids are not those of others later.
            self._digests[number] = batches.digest(map(np.asarray, leaves)), arrays
        return self._digests[number][0]

    def _on_device(self, arrays):
        """Returns arrays on the device, where each is kept once."""
        import jax

        digest = self._digest(arrays)
        if digest not in self._data:
            placed = keras.tree.map_structure(jax.numpy.asarray, arrays)
            self._data[digest] = placed
        return self._data[digest]

    def _program(self, text, width):
        import jax

        if (text, width) in self._programs:
            return self._programs[text, width]
        step = self._steps[text]

        def epoch(state, arrays, order):
            def advance(state, rows):
                batch = jax.tree.map(lambda array: array[rows], arrays)
                return step(state, batch)[1], None

            return jax.lax.scan(advance, state, order)[0]

        over = epoch if width == 1 else jax.vmap(epoch, in_axes=(0, None, 0))
        program = jax.jit(over)
        self._programs[text, width] = program
        return program


def _moving():
    """Returns functions that stack states and take them apart, in one program each."""
    import jax

    def stack(*states):
        return jax.tree.map(lambda *leaves: jax.numpy.stack(leaves), *states)

    def unstack(state):
        width = len(jax.tree.leaves(state)[0])
        leaves, structure = jax.tree.flatten(state)
        return [
            jax.tree.unflatten(structure, [leaf[number] for leaf in leaves])
            for number in range(width)
        ]

    return jax.jit(stack), jax.jit(unstack)


def _step(model, kind):
    return model.train_step if kind == "train" else model.test_step


def _variables(model, kind):
    """Returns the variables of a model's state, as the steps of Keras take them."""
    optimizer = [model.optimizer.variables] if kind == "train" else []
    return [
        model.trainable_variables,
        model.non_trainable_variables,
        *optimizer,
        model.metrics_variables,
    ]


def _state(model, kind):
    parts = _variables(model, kind)
    return tuple([variable.value for variable in part] for part in parts)


def _assign(model, kind, state):
    for part, values in zip(_variables(model, kind), state, strict=True):
        for variable, value in zip(part, values, strict=True):
            variable.assign(value)
