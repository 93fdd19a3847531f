"""Checks of the model and of `fit`'s arguments before a search begins."""

import inspect

import keras

from tf_tickets import arguments, optimizers, wrapping
from tf_tickets.masks.base import Mask
from tf_tickets.masks.penalized import own_regularizer
from tf_tickets.structures.channels import ChannelLayout
from tf_tickets.structures.structure import Structure, Unstructured
from tf_tickets.wrapping import paths


def check_wrapped(model: keras.Model) -> None:
    """Refuses a model without prunable layers.

    Example:

    >>> check_wrapped(tt.wrap(keras.Sequential([keras.Input((2,)),
    ...     keras.layers.Dense(1)]), verbose=False))
    """
    arguments.check_type(keras.Model, model=model)
    if not wrapping.prunables(model):
        raise ValueError(
            f"Model {model.name!r} has no Prunable layers. Wrap it before compiling: "
            "model = tf_tickets.wrap(model)."
        )


def check_fixed(model: keras.Model) -> None:
    """Refuses learned masks and frozen kernels: the method sets the masks itself.

    Example:

    >>> check_fixed(tt.wrap(keras.Sequential([keras.Input((2,)),
    ...     keras.layers.Dense(1)]), verbose=False))
    """
    check_wrapped(model)
    learned = _learned(model)
    if learned:
        raise ValueError(
            f"This method sets the masks itself, but those of model {model.name!r} are "
            f"learned. Received: {learned}. Wrap with "
            'mask="fixed".'
        )
    _check_free(model)


def check_unlearned(model: keras.Model) -> None:
    """Refuses learned masks, whose scores no snapshot has. Plain models are accepted.

    Example:

    >>> check_unlearned(keras.Sequential([keras.layers.Dense(1)]))
    """
    learned = _learned(model)
    if learned:
        raise ValueError(
            f"The scores of learned masks are not rewound, and model {model.name!r} "
            f"has such masks. Received: {learned}. Use "
            "keras.callbacks.EarlyStopping(restore_best_weights=True) in "
            "search.in_round(...), which restores them."
        )


def _learned(model):
    """Returns the names of the kinds of learned masks."""
    masks = wrapping.kernels(model).mask_layers.values()
    return ", ".join(sorted({type(mask).__name__ for mask in masks if mask.learned}))


def _check_free(model):
    kernels = wrapping.kernels(model)
    frozen = [path for path, v in kernels.variables.items() if not v.trainable]
    if frozen and isinstance(kernels.layout, ChannelLayout):
        # Units of frozen kernels stay. Other frozen variables follow their units.
        frozen = [path for path in frozen if path in kernels.layout.producers]
    if frozen:
        raise ValueError(
            f"Kernels of model {model.name!r} were frozen after it was wrapped, and "
            f"frozen kernels are not pruned. Received: {frozen}. Unfreeze them, or "
            "freeze them before wrapping, so that wrap leaves them alone: "
            "tf_tickets.strip(model), set trainable = False, wrap again."
        )


def check_masks(model: keras.Model, wanted: Mask) -> None:
    """Refuses masks other than those that the search wraps with.

    Their seeds may differ: each kernel has its own, and a search replaces them.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> check_masks(tt.wrap(model, verbose=False), tt.masks.FixedMask())
    """
    for path, mask in wrapping.kernels(model).mask_layers.items():
        if _settings(mask) != _settings(wanted):
            raise ValueError(
                f"Kernel {path!r} has another mask than this search's. Received: "
                f"{_settings(mask)}. Expected: {_settings(wanted)}. Wrap the model "
                "with search.wrap(model)."
            )


def _settings(mask):
    serialized = keras.saving.serialize_keras_object(mask)
    ignored = ("name", "trainable", "dtype", "seed")
    config = {k: v for k, v in serialized["config"].items() if k not in ignored}
    return {"mask": serialized["class_name"], **config}


def check_structure(
    model: keras.Model, method: str, wanted: Structure | None, follows: bool
) -> None:
    """Refuses a structure that the method does not follow, or did not ask for.

    Args:
        model: A wrapped model.
        method: The class of the method.
        wanted: The structure that it names, or None for that of the model.
        follows: Whether the method follows structures.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> model = tt.wrap(model, structure="2:4", verbose=False)
    >>> check_structure(model, "IMP", None, True)
    """
    kernels = wrapping.kernels(model)
    scheduled = [p for p, mask in kernels.mask_layers.items() if mask.scheduled]
    if scheduled:
        raise ValueError(
            f"{method} sets the masks itself, but those of model {model.name!r} have a "
            f"pruning schedule. Received: {scheduled}. Train it with "
            "tf_tickets.tfmot.UpdatePruningStep, or make the model by tf_tickets.wrap."
        )
    present = kernels.structure
    if not follows and present != Unstructured():
        raise ValueError(
            f"{method} does not follow structures, and model {model.name!r} is wrapped "
            f"with one. Received: structure={present.name!r}. Wrap it with "
            "structure='unstructured', or use a search that ranks weights, such as IMP."
        )
    if wanted is not None and wanted != present:
        raise ValueError(
            f"{method} is to prune with structure {wanted.name!r}, but model "
            f"{model.name!r} is wrapped with {present.name!r}. Wrap it with "
            f"tf_tickets.wrap(model, structure={wanted.name!r}), or with "
            "search.wrap(model)."
        )


def check_possible(structure: Structure, **sparsities: float) -> None:
    """Refuses a sparsity beyond what a structure allows.

    Args:
        structure: The structure.
        **sparsities: The argument of the caller that asks for a sparsity; or words for
            several arguments that lead to it.

    Example:

    >>> check_possible(tt.NM(2, 4), final_sparsity=0.5)
    >>> check_possible(tt.NM(2, 4), **{"rate=0.2, rounds=5, stop_at=None": 0.67232})
    Traceback (most recent call last):
    ValueError: Structure '2:4' allows at most sparsity 0.5. Received: rate=0.2,
        rounds=5, stop_at=None, which means sparsity 0.6723. Pass stop_at=0.5, or wrap
        the model with another structure.
    """
    most = structure.most_sparse
    for name, sparsity in sparsities.items():
        if sparsity <= most + 1e-9:
            continue
        received = f"{name}={sparsity:g}"
        if not name.isidentifier():
            received = f"{name}, which means sparsity {sparsity:.4g}"
        advice = f"Pass stop_at={most:g}" if "stop_at=None" in name else "Lower it"
        raise ValueError(
            f"Structure {structure.name!r} allows at most sparsity {most:g}. Received: "
            f"{received}. {advice}, or {structure.remedy}."
        )


def check_one_optimizer(model: keras.Model) -> None:
    """Refuses optimizers that a model holds beside the one it is compiled with.

    A search could not rewind them.

    Example:

    >>> check_one_optimizer(keras.Sequential([keras.layers.Dense(1)]))
    """
    # TensorFlow keeps its own record of attributes, in names with an underscore.
    names = sorted(
        name
        for name, value in vars(model).items()
        if name != "optimizer" and name[0] != "_" and _optimizes(value)
    )
    if names:
        raise ValueError(
            f"A search rewinds the optimizer that model {model.name!r} is compiled "
            f"with, but it cannot rewind others. Received the attributes {names}. Pass "
            "one optimizer to super().compile() and use it in train_step: "
            "tf_tickets.optimizers.Grouped gives groups of variables their own."
        )


def _optimizes(value):
    members = value.values() if isinstance(value, dict) else value
    if isinstance(members, keras.optimizers.Optimizer):
        return True
    is_group = isinstance(value, list | tuple | dict)
    return is_group and any(map(_optimizes, members))


def check_length_known(params: dict) -> None:
    """Refuses data of unknown length, since schedules depend on it.

    Example:

    >>> check_length_known({"steps": 10})
    """
    if not params.get("steps"):
        raise ValueError(
            "The number of steps per epoch must be known: schedules within a round "
            "depend on it. Received data of unknown length. Pass steps_per_epoch to "
            "fit."
        )


def check_counted(model: keras.Model) -> None:
    """Refuses to continue if masks that count training steps have seen none.

    Example:

    >>> check_counted(tt.wrap(keras.Sequential([keras.Input((2,)),
    ...     keras.layers.Dense(1)]), verbose=False))
    """
    kernels = wrapping.kernels(model)
    idle = [
        path
        for path, mask in kernels.mask_layers.items()
        if mask.counts_steps
        and kernels.variables[path].trainable  # Others have no penalty.
        and mask.clock.steps_done == 0
    ]
    if idle:
        raise ValueError(
            f"The masks of {idle} saw no training step. Either the training step does "
            "not collect `model.losses`, which loses penalties and stops schedules, or "
            "their layers are not called with training=True. Add model.losses to the "
            "loss in your train_step; pass `training` on in your `call`."
        )


def check_unforced(model: keras.Model) -> None:
    """Refuses regularizers and weight decay: only the loss may act on the weights.

    Example:

    >>> check_unforced(keras.Sequential([keras.layers.Dense(1)]))
    """
    forces = [
        f"a regularizer of {variable.path!r}"
        for variable in model.trainable_variables
        if own_regularizer(variable) is not None
    ]
    forces += [
        f"an activity regularizer of {layer.name!r}"
        for layer in paths.walk(model)
        if getattr(layer, "activity_regularizer", None) is not None
    ]
    if model.compiled and optimizers.decays(model.optimizer, model.trainable_variables):
        forces.append(f"weight decay of optimizer {model.optimizer.name!r}")
    if forces:
        raise ValueError(
            "Stage one of this search trains without any regularization. Received a "
            f"model with {'; '.join(forces)}. Build and compile it without. To train "
            "tickets with regularization, pass another build_model to train_ticket."
        )


def check_tells_training(model: keras.Model) -> None:
    """Refuses a model whose `call` does not take `training`.

    Example:

    >>> check_tells_training(keras.Sequential([keras.layers.Dense(1)]))
    """
    parameters = inspect.signature(model.call).parameters.values()
    kinds = [p.kind for p in parameters]
    named = any(p.name == "training" for p in parameters)
    if not named and inspect.Parameter.VAR_KEYWORD not in kinds:
        raise ValueError(
            f"`call` of model {model.name!r} takes no `training`, so Keras cannot tell "
            "its layers when they are trained, which masks that count steps need. "
            "Write it as call(self, inputs, training=None)."
        )


def check_stop(stop_at: str | float | None) -> str | float | None:
    """Returns where a search may stop: None, a sparsity or "below_dense".

    Example:

    >>> check_stop(0.9)
    0.9
    """
    valid = arguments.is_one_of(stop_at, (None, "below_dense")) or (
        isinstance(stop_at, float) and 0.0 < stop_at < 1.0
    )
    if not valid:
        raise ValueError(
            "`stop_at` must be None, a sparsity in (0, 1) or 'below_dense'. "
            f"Received: {arguments.shown(stop_at)}"
        )
    return stop_at
