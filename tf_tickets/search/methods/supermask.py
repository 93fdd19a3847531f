"""Supermasks: subnetworks of random weights that are never trained."""

import keras
import numpy as np

from tf_tickets import arguments, wrapping
from tf_tickets import masks as masks_module
from tf_tickets.masks.learned import LearnedMask
from tf_tickets.search.learn_masks import LearnMasks, freeze_weights, optimizer_or_none
from tf_tickets.search.plan import Run
from tf_tickets.search.ticket_search import TicketSearch
from tf_tickets.tickets.monitor import Monitor
from tf_tickets.training import snapshots
from tf_tickets.wrapping import to_numpy


@keras.saving.register_keras_serializable("tf_tickets")
class Supermask(TicketSearch):
    """Learns only the mask; all weights stay at initialization.

    A callback for one `fit` over a model that `search.wrap` returned. All its variables
    but the scores are frozen, and so are those of the model it was made from: to train
    a ticket's weights, apply it to a newly built model.

    With a stochastic mask this is the supermask of Zhou et al. (2019), with a soft mask
    that of Continuous Sparsification, with "topk" edge-popup (Ramanujan et al. 2020).

    Args:
        epochs: Epochs of the one round.
        mask: The mask parametrization: "stochastic", "soft", "topk" or an instance of
            `tf_tickets.masks` with its own settings, such as `dynamic_scaling=True`.
        signed_constant: Whether each kernel's weights are replaced by their sign times
            their standard deviation.
        score_optimizer: The optimizer of the scores; None for that of the model. The
            paper of Continuous Sparsification uses SGD with learning rate 100 for the
            stochastic mask and Adam with 3e-4 for the soft one.
        monitor: The metric by which tickets are judged: its name or a `Monitor`.
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
        mask: str | LearnedMask = "stochastic",
        signed_constant: bool = False,
        *,
        score_optimizer: str | keras.optimizers.Optimizer | None = None,
        monitor: str | Monitor = "val_accuracy",
        seed: int = 0,
    ) -> None:
        arguments.check_counts(epochs=epochs)
        arguments.check_flags(signed_constant=signed_constant)
        self.mask = masks_module.get(mask)
        if not self.mask.learned:
            raise ValueError(
                "`mask` must be a learned one: 'stochastic', 'soft', 'topk' or an "
                f"instance. Received: {type(self.mask).__name__}"
            )
        self.signed_constant = signed_constant
        self.score_optimizer = optimizer_or_none(score_optimizer)
        plan = _FrozenWeights(self.mask, epochs, signed_constant, self.score_optimizer)
        super().__init__(plan, "init", monitor, seed)


class _FrozenWeights(LearnMasks):
    """One round in which only the scores are trained."""

    def __init__(self, mask, epochs, signed_constant, score_optimizer):
        super().__init__(mask, 1, epochs, score_optimizer=score_optimizer)
        self.signed_constant = signed_constant

    def prepare(self, wrapped: keras.Model) -> keras.Model:
        freeze_weights(wrapped)
        return wrapped

    def check(self, run: Run) -> None:
        super().check(run)
        plain = {id(v) for v in wrapping.plain_paths(run.model).values()}
        free = [v.path for v in run.model.trainable_variables if id(v) in plain]
        if free:
            raise ValueError(
                f"A supermask leaves the weights as they are, but {free} would be "
                "trained. Wrap the model with search.wrap(model) before compiling it "
                "again."
            )

    def setup(self, run: Run) -> None:
        if self.signed_constant:
            for variable in run.kernels.variables.values():
                kernel = to_numpy(variable)
                # Only once: the deviation of signed constants is smaller than theirs.
                if np.unique(np.abs(kernel)).size > 1:
                    variable.assign(np.sign(kernel) * kernel.std())
        super().setup(run)

    def ticket_start(self, run: Run) -> snapshots.State:
        """Includes the statistics gathered in the search; no weights were trained."""
        now = snapshots.record(run.model)
        return {**run.state.snapshot, "statistics": now["statistics"]}
