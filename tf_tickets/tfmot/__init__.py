"""The names of tensorflow-model-optimization on Keras 3, and its models.

Replace `tfmot.sparsity.keras.` by `tfmot.`, after `from tf_tickets import tfmot`. These
functions run on every backend and need neither tensorflow-model-optimization nor
tf_keras. Functions that convert models of tf_keras import it when they are called.
"""

from tf_tickets.tfmot.from_keras_2 import (
    from_tf_keras,
    load_legacy,
    ticket_from_tf_keras,
)
from tf_tickets.tfmot.prunable_layer import PrunableLayer
from tf_tickets.tfmot.prune import prune_low_magnitude, prune_scope, strip_pruning
from tf_tickets.tfmot.pruning_policies import PruneForLatencyOnXNNPack, PruningPolicy
from tf_tickets.tfmot.pruning_schedules import (
    ConstantSparsity,
    PolynomialDecay,
    PruningSchedule,
)
from tf_tickets.tfmot.pruning_summaries import PruningSummaries
from tf_tickets.tfmot.qat import from_qat
from tf_tickets.tfmot.scheduled_mask import ScheduledMask
from tf_tickets.tfmot.to_keras_2 import to_tf_keras
from tf_tickets.tfmot.update_pruning_step import UpdatePruningStep

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
    "from_qat",
    "from_tf_keras",
    "load_legacy",
    "prune_low_magnitude",
    "prune_scope",
    "strip_pruning",
    "ticket_from_tf_keras",
    "to_tf_keras",
]
