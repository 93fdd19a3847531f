"""Supermasks: a network is found in random weights, which are never trained."""

import keras
import numpy as np

from tf_tickets import masks as masks_module
from tf_tickets import wrapping
from tf_tickets.masks.learned import LearnedMask
from tf_tickets.search.mask_search import MaskSearch
from tf_tickets.training import snapshots
from tf_tickets.training.checks import check_counts


@keras.saving.register_keras_serializable("tf_tickets")
class Supermask(MaskSearch):
    """Learns nothing but the mask; all weights stay as they were drawn.

    A callback for one `fit` over a model that `search.wrap` gave, in which all
    variables but the scores are frozen, those of the model it was made from with
    them; to train a ticket's weights, apply it to a model that is built anew.

    With a stochastic mask this is the supermask of Zhou et al. (2019), with a soft
    one that of Continuous Sparsification, with "topk" edge-popup (Ramanujan et al.
    2020).

    Args:
        epochs: Epochs of the one round.
        mask: The mask parametrization: "stochastic", "soft", "topk" or an instance
            of `tf_tickets.masks` with settings of its own, such as
            `dynamic_scaling=True`.
        signed_constant: Whether each kernel's weights are replaced by their sign
            times their standard deviation.
        score_optimizer: The optimizer of the scores; None for that of the model.
            The paper of Continuous Sparsification takes SGD with learning rate 100
            for the stochastic mask, Adam with 3e-4 for the soft one.
        monitor: The logged metric by which tickets are judged.
        seed: Seed of draws and first scores.

    Example:

    >>> keras.utils.set_random_seed(0)
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> model.compile("adam", "mse")
    >>> search = Supermask(2, mask="topk", monitor="loss")
    >>> model = search.wrap(model, verbose=False)
    >>> x, y = np.ones((8, 4)), np.zeros((8, 5))
    >>> history = model.fit(x, y, epochs=search.epochs, callbacks=[search], verbose=0)
    >>> search.best.sparsity
    0.5
    """

    method = "supermask"

    def __init__(
        self,
        epochs: int = 100,
        mask: str | dict | LearnedMask = "stochastic",
        signed_constant: bool = False,
        *,
        score_optimizer: str | dict | keras.optimizers.Optimizer | None = None,
        monitor: str = "val_accuracy",
        seed: int = 0,
    ) -> None:
        check_counts(epochs=epochs)
        mask = masks_module.get(mask)
        if not mask.learned:
            raise ValueError(
                "`mask` must be a learned one: 'stochastic', 'soft', 'topk' or an "
                f"instance. Received: {type(mask).__name__}"
            )
        super().__init__(
            mask,
            1,
            epochs,
            score_optimizer=score_optimizer,
            monitor=monitor,
            seed=seed,
        )
        self.signed_constant = signed_constant

    def prepare(self, wrapped: keras.Model) -> keras.Model:
        """Freezes all but the scores."""
        self.freeze(wrapped)
        return wrapped

    def check_model(self) -> None:
        super().check_model()
        plain = {id(v) for v in wrapping.plain_paths(self.model).values()}
        free = [v.path for v in self.model.trainable_variables if id(v) in plain]
        if free:
            raise ValueError(
                f"A supermask leaves the weights as they are, but {free} would be "
                "trained. Wrap the model with search.wrap(model) before compiling it "
                "anew."
            )

    def begin(self) -> None:
        if self.signed_constant:
            for variable in wrapping.kernels(self.model).values():
                kernel = snapshots.to_numpy(variable)
                # Once only: the spread of signed constants is less than theirs.
                if np.unique(np.abs(kernel)).size > 1:
                    variable.assign(np.sign(kernel) * kernel.std())
        super().begin()

    def ticket_start(self) -> snapshots.State:
        """With the statistics that the search has gathered: nothing else trains."""
        now = snapshots.record(self.model)
        return {**self.snapshot, "statistics": now["statistics"]}

    def get_config(self):
        config = super().get_config()
        return {
            "epochs": config["epochs_per_round"],
            "mask": keras.saving.serialize_keras_object(self.mask),
            "signed_constant": self.signed_constant,
            "score_optimizer": config["score_optimizer"],
            "monitor": config["monitor"],
            "seed": config["seed"],
        }
