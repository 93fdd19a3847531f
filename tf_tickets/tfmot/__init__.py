"""The names of tensorflow-model-optimization, on Keras 3.

Replace `tfmot.sparsity.keras.` by `tfmot.`, after `from tf_tickets import tfmot`. The
functions run on every backend and need neither tensorflow-model-optimization nor
tf_keras.
"""

from tf_tickets.tfmot.prunable_layer import PrunableLayer
from tf_tickets.tfmot.prune import prune_low_magnitude, prune_scope, strip_pruning
from tf_tickets.tfmot.pruning_callbacks import PruningSummaries, UpdatePruningStep
from tf_tickets.tfmot.pruning_policies import PruneForLatencyOnXNNPack, PruningPolicy
from tf_tickets.tfmot.pruning_schedules import (
    ConstantSparsity,
    PolynomialDecay,
    PruningSchedule,
)
from tf_tickets.tfmot.scheduled_mask import ScheduledMask

__all__ = [
    "ConstantSparsity",
    "PolynomialDecay",
    "PrunableLayer",
    "PruneForLatencyOnXNNPack",
    "PruningPolicy",
    "PruningSchedule",
    "PruningSummaries",
    "ScheduledMask",
    "UpdatePruningStep",
    "prune_low_magnitude",
    "prune_scope",
    "strip_pruning",
]
