"""What a search may be told: the arguments, checked and read."""

import inspect
import re

import keras

from tf_tickets import optimizers, wrapping
from tf_tickets.masks.base import Mask
from tf_tickets.masks.penalized import own_regularizer
from tf_tickets.wrapping import paths


def check_counts(**counts: int) -> None:
    """Counts must be whole numbers of 1 or more.

    Example:

    >>> check_counts(rounds=3)
    """
    for name, count in counts.items():
        if not isinstance(count, int) or count < 1:
            raise ValueError(
                f"`{name}` must be a whole number of 1 or more. Received: {count!r}"
            )


def check_sparsity(**sparsities: float) -> None:
    """A sparsity leaves something: it must lie in [0, 1).

    Example:

    >>> check_sparsity(final_sparsity=0.9)
    """
    for name, value in sparsities.items():
        if not 0.0 <= value < 1.0:
            raise ValueError(f"`{name}` must lie in [0, 1). Received: {name}={value}")


def check_wrapped(model: keras.Model) -> None:
    """There must be something to prune.

    Example:

    >>> check_wrapped(tt.wrap(keras.Sequential([keras.Input((2,)),
    ...     keras.layers.Dense(1)]), verbose=False))
    """
    if not wrapping.prunables(model):
        raise ValueError(
            f"Model {model.name!r} has no Prunable layers. Wrap it before compiling: "
            "model = tf_tickets.wrap(model)."
        )


def check_fixed(model: keras.Model) -> None:
    """Masks must be such as are set, not learned.

    Example:

    >>> check_fixed(tt.wrap(keras.Sequential([keras.Input((2,)),
    ...     keras.layers.Dense(1)]), verbose=False))
    """
    check_wrapped(model)
    found = {
        type(m).__name__ for m in wrapping.mask_layers(model).values() if m.learned
    }
    if found:
        raise ValueError(
            f"This method sets the masks itself, but those of model {model.name!r} are "
            f"learned. Received: {', '.join(sorted(found))}. Wrap with "
            'mask="fixed".'
        )


def check_masks(model: keras.Model, wanted: Mask) -> None:
    """The masks must be those that the search wraps with.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> check_masks(tt.wrap(model, verbose=False), tt.masks.FixedMask())
    """
    for path, mask in wrapping.mask_layers(model).items():
        if _settings(mask) != _settings(wanted):
            raise ValueError(
                f"Kernel {path!r} has another mask than this search's. Received: "
                f"{_settings(mask)}. Expected: {_settings(wanted)}. Wrap the model "
                "with search.wrap(model)."
            )


def _settings(mask):
    found = keras.saving.serialize_keras_object(mask)
    unlike = ("name", "trainable", "dtype")
    config = {k: v for k, v in found["config"].items() if k not in unlike}
    return {"mask": found["class_name"], **config}


def check_length_known(params: dict) -> None:
    """The number of steps an epoch must be known, for schedules go by it.

    Example:

    >>> check_length_known({"steps": 10})
    """
    if not params.get("steps"):
        raise ValueError(
            "The number of steps an epoch must be known, for what grows within a "
            "round goes by it. Received data of unknown length. Pass steps_per_epoch "
            "to fit."
        )


def check_counted(model: keras.Model) -> None:
    """Masks that count training steps must have seen one.

    Example:

    >>> check_counted(tt.wrap(keras.Sequential([keras.Input((2,)),
    ...     keras.layers.Dense(1)]), verbose=False))
    """
    idle = [
        path
        for path, mask in wrapping.mask_layers(model).items()
        if mask.counts_steps and mask.clock.steps_done == 0
    ]
    if idle:
        raise ValueError(
            f"The masks of {idle} saw no training step: either the step does not "
            "collect `model.losses`, by which penalties are lost and schedules stand "
            "still, or their layers are not called with training=True. Add "
            "model.losses to the loss in your train_step; pass `training` on in your "
            "`call`."
        )


def check_unforced(model: keras.Model) -> None:
    """Nothing but the loss may act on the weights: no regularizer, no decay.

    Example:

    >>> check_unforced(keras.Sequential([keras.layers.Dense(1)]))
    """
    found = [
        f"a regularizer of {variable.path!r}"
        for variable in model.trainable_variables
        if own_regularizer(variable) is not None
    ]
    found += [
        f"an activity regularizer of {layer.name!r}"
        for layer in paths.walk(model)
        if getattr(layer, "activity_regularizer", None) is not None
    ]
    if model.compiled and optimizers.decays(model.optimizer, model.trainable_variables):
        found.append(f"weight decay of optimizer {model.optimizer.name!r}")
    if found:
        raise ValueError(
            "Stage one of this search trains without any regularization. Received a "
            f"model with {'; '.join(found)}. Build and compile it without; tickets can "
            "be trained with it by train_ticket and another build_model."
        )


def check_tells_training(model: keras.Model) -> None:
    """Keras must be able to tell a model that it is being trained.

    Example:

    >>> check_tells_training(keras.Sequential([keras.layers.Dense(1)]))
    """
    parameters = inspect.signature(model.call).parameters.values()
    kinds = [p.kind for p in parameters]
    named = any(p.name == "training" for p in parameters)
    if not named and inspect.Parameter.VAR_KEYWORD not in kinds:
        raise ValueError(
            f"`call` of model {model.name!r} takes no `training`, so its layers are "
            "not told when they are trained, and masks that count steps must know. "
            "Write it as call(self, inputs, training=None)."
        )


def check_stop(stop_at: str | float | None) -> str | float | None:
    """Where a search may stop: None, a sparsity or "below_dense".

    Example:

    >>> check_stop(0.9)
    0.9
    """
    valid = stop_at in (None, "below_dense") or (
        isinstance(stop_at, float) and 0.0 < stop_at < 1.0
    )
    if not valid:
        raise ValueError(
            "`stop_at` must be None, a sparsity in (0, 1) or 'below_dense'. "
            f"Received: {stop_at!r}"
        )
    return stop_at


def parse_moment(text: str, epochs_per_round: int) -> tuple[str, int]:
    """("steps" or "epochs", count) from "init", "500 steps" or "2 epochs".

    Example:

    >>> parse_moment("500 steps", epochs_per_round=2)
    ('steps', 500)
    """
    found = re.fullmatch(r"(\d+) (step|epoch)s?", str(text))
    if text != "init" and found is None:
        raise ValueError(
            "`rewind_to` must be 'init', 'N steps' or 'N epochs', such as "
            f"'500 steps'. Received: {text!r}"
        )
    if text == "init" or found[1] == "0":
        return "steps", 0
    unit, count = f"{found[2]}s", int(found[1])
    if unit == "epochs" and count >= epochs_per_round:
        raise ValueError(
            "`rewind_to` must lie before the end of round 0. Received: "
            f"{text!r} with epochs_per_round={epochs_per_round}"
        )
    return unit, count
