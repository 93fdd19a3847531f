"""Criteria of the whole model: SNIP, GraSP, SynFlow, and Taylor scores of channels.

They score a whole model, and work with `PruneAtInit` and all searches that take a
criterion. SNIP, GraSP and Taylor evaluate the compiled loss on examples. They use
training mode because an untrained network has no meaningful moving statistics. SynFlow
needs no data.
"""

import collections
import itertools
import warnings
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import ArrayLike

from tf_tickets import arguments, wrapping
from tf_tickets.pruning import criteria, derivatives
from tf_tickets.pruning.derivatives import (
    gradient,
    hessian_product,
    kernel_values,
    numpy,
)
from tf_tickets.pruning.examples import Examples, read_batches
from tf_tickets.structures.channels import ChannelLayout
from tf_tickets.training import checks
from tf_tickets.training.batch_entries import check_weightable, labels_of, rows_of
from tf_tickets.training.data import Part
from tf_tickets.wrapping import graphs

__all__ = [
    "DenseGradient",
    "GraSP",
    "SNIP",
    "Taylor",
    "balanced",
    "synflow",
]


class SNIP:
    """Scores weights by the sensitivity of the loss, `|gradient * weight|` (SNIP).

    The gradient is averaged over all batches (Lee et al. 2019).

    Args:
        x: Inputs. Or, without `y`, a dataset, a generator or another part of
            `tf_tickets.TrainingData`.
        y: Targets.
        batch_size: Number of examples per batch of arrays. Defaults to 128.
        batches: Number of batches to read of other data. Defaults to 10.

    Example:

    >>> dense = keras.layers.Dense(1, kernel_initializer="ones", name="d")
    >>> model = keras.Sequential([keras.Input((2,)), dense], name="net")
    >>> model = tt.wrap(model, verbose=False)
    >>> model.compile("sgd", "mse")
    >>> scores = SNIP(np.array([[1.0, 3.0]]), np.array([[3.0]]))(model)
    >>> scores["net/d/kernel"].ravel().tolist()
    [2.0, 6.0]
    """

    def __init__(
        self,
        x: ArrayLike | Part,
        y: ArrayLike | None = None,
        batch_size: int | None = None,
        batches: int | None = None,
    ) -> None:
        self.examples = Examples(x, y, batch_size, batches)
        # The name in the settings of a search.
        self.__name__ = f"snip({self.examples.description})"

    def __call__(self, model: keras.Model) -> dict[str, np.ndarray]:
        gradients, weights = _mean_gradient(model, self.examples)
        pairs = zip(gradients, weights, strict=True)
        return _by_path(model, [np.abs(g * w) for g, w in pairs])


class DenseGradient:
    """Scores weights by the absolute gradient, including pruned weights (RigL).

    Every call samples one new batch: random rows of arrays, a random batch of a
    PyDataset, or the first batch of a function for a random key. Of other data, it is
    one of the first batches.

    Args:
        x: Inputs. Or, without `y`, a dataset, a generator or another part of
            `tf_tickets.TrainingData`.
        y: Targets.
        batch_size: Number of examples in the batch of arrays. Defaults to 128.
        batches: Number of batches to read of other data. Defaults to 10.

    Example:

    >>> dense = keras.layers.Dense(1, use_bias=False, name="d")
    >>> model = keras.Sequential([keras.Input((2,)), dense], name="net")
    >>> model = tt.wrap(model, verbose=False)
    >>> model.compile("sgd", "mse")
    >>> tt.kernels(model).set_masks({"net/d/kernel": np.zeros((2, 1), bool)})
    >>> grow = DenseGradient(np.array([[1.0, 3.0]]), np.array([[-1.0]]))
    >>> grow(model, np.random.default_rng(0))["net/d/kernel"].ravel().tolist()
    [2.0, 6.0]
    """

    def __init__(
        self,
        x: ArrayLike | Part,
        y: ArrayLike | None = None,
        batch_size: int | None = None,
        batches: int | None = None,
    ) -> None:
        self.examples = Examples(x, y, batch_size, batches)
        self.__name__ = f"dense_gradient({self.examples.description})"

    def __call__(
        self, model: keras.Model, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        x, y, weight = keras.utils.unpack_x_y_sample_weight(self.examples.draw(rng))
        masks = [mask.mask for mask in wrapping.kernels(model).mask_layers.values()]
        unmasked = {mask.path: ops.ones_like(mask.value) for mask in masks}
        loss = derivatives.loss_at(
            model, x, y, training=True, others=unmasked, sample_weight=weight
        )
        gradients = gradient(loss, kernel_values(model))
        return _by_path(model, [np.abs(numpy(g)) for g in gradients])


class GraSP:
    """Scores weights by their effect on the gradient norm, `weight * (H @ gradient)`.

    Removing a weight changes the squared norm of the gradient by about -2 times its
    score. Pruning the lowest scores therefore preserves the gradient flow (Wang et
    al. 2020).

    Args:
        x: Inputs. For a classifier, provide equally many examples of each class. Or,
            without `y`, a dataset, a generator or another part of
            `tf_tickets.TrainingData`.
        y: Targets.
        batch_size: Number of examples per batch of arrays. Defaults to 128.
        temperature: Divisor of the outputs.
        batches: Number of batches to read of other data. Defaults to 10.

    Example:

    >>> x, y = np.ones((8, 4), "float32"), np.ones((8, 5), "float32")
    >>> GraSP(x, y, temperature=1.0).__name__
    'grasp(8 examples ..., batch_size=128, temperature=1.0)'
    """

    def __init__(
        self,
        x: ArrayLike | Part,
        y: ArrayLike | None = None,
        batch_size: int | None = None,
        temperature: float = 200.0,
        batches: int | None = None,
    ) -> None:
        arguments.check_positive(temperature=temperature)
        self.examples = Examples(x, y, batch_size, batches)
        self.temperature = temperature
        options = f"{self.examples.description}, temperature={temperature}"
        self.__name__ = f"grasp({options})"

    def __call__(self, model: keras.Model) -> dict[str, np.ndarray]:
        temperature = self.temperature
        if temperature != 1.0 and graphs.gives_probabilities(model):
            warnings.warn(
                f"GraSP with temperature={temperature} expects logits, but "
                f"{model.name!r} outputs probabilities. Remove its last activation "
                "and use a loss with from_logits=True, or set temperature=1.",
                stacklevel=2,
            )
        gradients, weights = _mean_gradient(model, self.examples, temperature)
        # Normalized, because small gradients underflow in half precision.
        largest = max(float(np.abs(g).max(initial=0.0)) for g in gradients) or 1.0

        @derivatives.compiled
        def product(values, direction, x, y=None, weight=None):
            loss = derivatives.loss_at(
                *(model, x, y, True, temperature),
                scale=temperature**2,
                sample_weight=weight,
            )
            return hessian_product(loss, values, direction)

        direction = [(g / largest).astype("float32") for g in gradients]
        values = kernel_values(model)
        products = derivatives.mean(
            (rows_of(batch), product(values, direction, *batch))
            for batch in self.examples
        )
        scale = largest / temperature**2
        pairs = zip(products, weights, strict=True)
        return _by_path(model, [scale * h * w for h, w in pairs])


def balanced(
    data: Part, each: int, classes: int | None = None, batches: int = 100
) -> tuple[Any, Any]:
    """Returns equally many examples of each class, as GraSP needs them.

    They are the first of each class. Of a `tf_tickets` Dataset,
    `dataset.balanced(each)` draws random ones.

    Args:
        data: Arrays (x, y), a dataset, a generator or another part of
            `tf_tickets.TrainingData`.
        each: Number of examples of each class.
        classes: Number of classes. Reading ends when all of them are complete.
            Defaults to those that occur in the batches that are read.
        batches: Maximum number of batches to read.

    Returns:
        Inputs and targets.

    Example:

    >>> x, y = balanced((np.arange(6), np.array([0, 0, 0, 1, 2, 1])), each=1)
    >>> x.tolist(), y.tolist()
    ([0, 3, 4], [0, 1, 2])
    """
    arguments.check_counts(each=each, batches=batches)
    if classes is not None:
        arguments.check_counts(classes=classes)
    rows: dict[int, list] = collections.defaultdict(list)
    for batch in itertools.islice(read_batches(data), batches):
        check_weightable(batch[:2])
        for number, label in enumerate(labels_of(batch[1]).tolist()):
            if len(rows[label]) < each:
                row = keras.tree.map_structure(lambda a: a[number], batch[:2])  # noqa: B023
                rows[label].append(row)
        if classes is not None and _are_complete(rows, each, classes):
            break
    if not _are_complete(rows, each, classes or len(rows)):
        counts = {label: len(rows[label]) for label in sorted(rows)}
        raise ValueError(
            f"The data must have {each} examples of each class in the first {batches} "
            f"batches. Received examples by class: {counts}, classes={classes}. Lower "
            "`each`, or raise `batches`."
        )
    chosen = [row for label in sorted(rows) for row in rows[label]]
    x, y = keras.tree.map_structure(lambda *leaves: np.stack(leaves), *chosen)
    return x, y


def _are_complete(rows, each, classes):
    return len(rows) >= classes and all(len(found) >= each for found in rows.values())


class Taylor:
    """Scores units by the change of the loss without them, to first order.

    The score is `|sum of gradient * value|` over the gammas and betas of the
    normalizations that read a unit, or else over the outputs of its kernels and their
    biases (Molchanov et al. 2019). It is averaged over the batches. Requires a model
    wrapped with `structure="channels"`, and trained: at a minimum of the loss single
    batches still have gradients.

    Args:
        x: Inputs. Or, without `y`, a dataset, a generator or another part of
            `tf_tickets.TrainingData`.
        y: Targets.
        batch_size: Number of examples per batch of arrays. Defaults to 128.
        batches: Number of batches to read of other data. Defaults to 10.

    Example:

    >>> layers = [keras.layers.Dense(2, name="a"), keras.layers.Dense(1, name="b")]
    >>> model = keras.Sequential([keras.Input((1,)), *layers], name="net")
    >>> model.set_weights([np.array([[1.0, 2.0]]), np.zeros(2), np.ones((2, 1)),
    ...                    np.zeros(1)])
    >>> model = tt.wrap(model, structure="channels", verbose=False)
    >>> model.compile("sgd", "mse")
    >>> scores = Taylor(np.array([[1.0]]), np.array([[2.0]]))
    >>> scores(tt.kernels(model).layout, model)["net/a/kernel"].tolist()
    [2.0, 4.0]
    """

    def __init__(
        self,
        x: ArrayLike | Part,
        y: ArrayLike | None = None,
        batch_size: int | None = None,
        batches: int | None = None,
    ) -> None:
        self.examples = Examples(x, y, batch_size, batches)
        self.__name__ = f"taylor({self.examples.description})"

    def __call__(
        self, layout: ChannelLayout, model: keras.Model
    ) -> dict[str, np.ndarray]:
        arguments.check_type(ChannelLayout, layout=layout)
        derivatives.check_compiled(model)
        gates = layout.gates
        places = {path: i for i, path in enumerate(wrapping.kernels(model).variables)}

        @derivatives.compiled
        def products(values, x, y=None, weight=None):
            loss = derivatives.loss_at(model, x, y, True, sample_weight=weight)
            gradients = gradient(loss, values)
            return [
                _along(gradients[i] * values[i], row.axis)
                for row, i in ((row, places[row.path]) for row, _ in gates)
            ]

        def changes(batch):
            sums = np.zeros(layout.size)
            for (row, counted), product in zip(
                gates, products(values, *batch), strict=True
            ):
                np.add.at(sums, row.ids[counted], numpy(product)[counted])
            return [np.abs(sums)]

        values = kernel_values(model)
        (scores,) = derivatives.mean(
            (rows_of(batch), changes(batch)) for batch in self.examples
        )
        return layout.tables(scores)


def _along(tensor, axis):
    """Returns the sums over all axes but one."""
    return ops.sum(tensor, [other for other in range(tensor.ndim) if other != axis])


@criteria.register
def synflow(model: keras.Model) -> dict[str, np.ndarray]:
    """Scores weights by their synaptic flow, `|w * dR/dw|` (SynFlow).

    `R` is the sum of the outputs for an input of ones, computed with absolute weights
    and without biases. In ReLU networks, the total score entering a unit equals the
    total score leaving it (Tanaka et al. 2020). Use it with many passes of
    `PruneAtInit`.

    Args:
        model: A wrapped model.

    Returns:
        Dict from kernel path to its scores.

    Example:

    >>> dense = keras.layers.Dense(1, name="d")
    >>> model = keras.Sequential([keras.Input((2,)), dense], name="net")
    >>> model.set_weights([np.array([[1.0], [-2.0]]), np.ones(1)])
    >>> synflow(tt.wrap(model, verbose=False))["net/d/kernel"].ravel().tolist()
    [1.0, 2.0]
    """
    kernels = wrapping.kernels(model).variables
    checks.check_wrapped(model)
    kernel_ids = {id(variable) for variable in kernels.values()}
    positive = {
        v.path: _positive(v)
        for v in model.variables
        if id(v) not in kernel_ids and keras.backend.is_float_dtype(v.dtype)
    }
    if not graphs.is_graph(model):
        raise ValueError(
            "SynFlow needs a Sequential or functional model, whose input shapes are "
            f"known. Received: {model.name!r}, a {type(model).__name__}. Use another "
            "criterion."
        )
    ones = [ops.ones((1, *_known(x.shape))) for x in model.inputs]
    ones = ones[0] if len(ones) == 1 else ones

    def flow(values):
        with derivatives.scope(model, values, positive):
            outputs = keras.tree.flatten(model(ones, training=False))
        return ops.sum(ops.stack([ops.sum(output) for output in outputs]))

    values = [_positive(variable) for variable in kernels.values()]
    # Not compiled: there is only one example, and the masks change in each pass.
    pairs = zip(gradient(flow, values), values, strict=True)
    scores = [np.abs(numpy(g) * numpy(w)) for g, w in pairs]
    _check_flow(scores)
    return _by_path(model, scores)


def _positive(variable):
    """Returns zeros for biases and means, and absolute values otherwise."""
    if variable.path.endswith(("bias", "beta", "moving_mean")):
        return ops.zeros_like(variable.value)
    return ops.abs(variable.value)


def _known(shape):
    if None in shape[1:]:
        raise ValueError(
            "SynFlow needs a known input shape. Received a model with input shape "
            f"{tuple(shape)}. Build the model with a fixed shape."
        )
    return shape[1:]


def _check_flow(scores):
    total = sum(float(score.sum()) for score in scores)
    if not np.isfinite(total):
        raise ValueError(
            "SynFlow's scores are not finite: the product over all layers overflows "
            "float32. Build the model with "
            'keras.config.set_dtype_policy("float64").'
        )
    if total == 0.0:
        raise ValueError(
            "SynFlow's scores are all zero: the gradient of the summed outputs is 0. "
            "If the model ends with a softmax, whose outputs always sum to 1, remove "
            "it and use a loss with from_logits=True."
        )


def _mean_gradient(model, examples, temperature=1.0):
    """Returns the mean gradient over all batches, and the kernels, as arrays."""

    @derivatives.compiled
    def batch_gradient(values, x, y=None, weight=None):
        loss = derivatives.loss_at(
            *(model, x, y, True, temperature), scale=temperature, sample_weight=weight
        )
        return gradient(loss, values)

    values = kernel_values(model)
    gradients = derivatives.mean(
        (rows_of(batch), batch_gradient(values, *batch)) for batch in examples
    )
    gradients = [array / temperature for array in gradients]
    return gradients, [numpy(value) for value in values]


def _by_path(model, arrays):
    return dict(zip(wrapping.kernels(model).variables, arrays, strict=True))
