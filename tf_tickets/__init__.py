"""Lottery tickets and model sparsification for Keras 3.

Wrap a model, give a search to `model.fit`, take the ticket, strip the model:

>>> keras.utils.set_random_seed(0)
>>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
>>> model = tt.wrap(model, verbose=False)
>>> model.compile("adam", "mse")
>>> search = tt.IMP(rounds=2, epochs_per_round=1, rate=0.5, monitor="loss")
>>> x, y = np.ones((8, 4)), np.ones((8, 5))
>>> history = model.fit(x, y, epochs=search.epochs, callbacks=[search], verbose=0)
>>> search.tickets[-1].sparsity
0.75
>>> plain = tt.strip(model)
"""

import tf_tickets.environment  # noqa: F401

# isort: split
from tf_tickets import (
    analysis,
    augmentation,
    distillation,
    masks,
    optimizers,
    structures,
    tfmot,
)
from tf_tickets.callbacks.dynamic_sparsity import DynamicSparsity
from tf_tickets.callbacks.early_stop_rewind import EarlyStopRewind
from tf_tickets.callbacks.gradual_pruning import GradualPruning
from tf_tickets.compaction.compact_report import CompactReport
from tf_tickets.compaction.compacting import compact
from tf_tickets.compaction.finding import find_units
from tf_tickets.distillation.distiller import Distiller
from tf_tickets.environment import __version__
from tf_tickets.experiments import datasets, models, recipes
from tf_tickets.exporting.export_report import ExportReport
from tf_tickets.exporting.exporter import export
from tf_tickets.exporting.order import MicroOptions
from tf_tickets.fine_tuning.prune_result import PruneResult
from tf_tickets.fine_tuning.pruner import prune
from tf_tickets.pruning import allocation, criteria, curvature, saliency, schedules
from tf_tickets.reports.summary import summary
from tf_tickets.search import executors, search_recipes
from tf_tickets.search.frontier import Frontier
from tf_tickets.search.frontier_runner import find_frontier
from tf_tickets.search.learn_masks import LearnMasks
from tf_tickets.search.methods.continuous import ContinuousSparsification
from tf_tickets.search.methods.dlth import DLTH
from tf_tickets.search.methods.imp import IMP
from tf_tickets.search.methods.kdlts import KDLTS
from tf_tickets.search.methods.prune_at_init import PruneAtInit
from tf_tickets.search.methods.stochastic import StochasticSparsification
from tf_tickets.search.methods.supermask import Supermask
from tf_tickets.search.methods.threshold import ThresholdPruning
from tf_tickets.search.methods.unilth import UniDLTH, UniLTH
from tf_tickets.search.phases import PenaltyPhase, StageOne
from tf_tickets.search.plan import RoundPlan
from tf_tickets.search.press_and_remove import PressAndRemove
from tf_tickets.search.prune_and_rewind import PruneAndRewind
from tf_tickets.search.runner import find_tickets
from tf_tickets.search.teachers import train_teachers
from tf_tickets.search.ticket_search import TicketSearch
from tf_tickets.search.ticket_trainer import TicketTrainer, train_ticket
from tf_tickets.structures.blocks import Blocks
from tf_tickets.structures.channels import Channels
from tf_tickets.structures.nm import NM
from tf_tickets.tickets import controls
from tf_tickets.tickets.apply_report import ApplyReport
from tf_tickets.tickets.monitor import Monitor
from tf_tickets.tickets.overlap import OverlapReport
from tf_tickets.tickets.ticket import Ticket
from tf_tickets.training import snapshots
from tf_tickets.training.data import TrainingData
from tf_tickets.training.fidelity import Fidelity
from tf_tickets.training.rewind import Rewind
from tf_tickets.units.registry import register_rule
from tf_tickets.wrapping import prunable as layers
from tf_tickets.wrapping.kernels import kernels
from tf_tickets.wrapping.wrap import strip, wrap

__all__ = [
    "ApplyReport",
    "Blocks",
    "Channels",
    "CompactReport",
    "ContinuousSparsification",
    "DLTH",
    "Distiller",
    "DynamicSparsity",
    "EarlyStopRewind",
    "ExportReport",
    "Fidelity",
    "Frontier",
    "GradualPruning",
    "IMP",
    "KDLTS",
    "LearnMasks",
    "MicroOptions",
    "Monitor",
    "NM",
    "OverlapReport",
    "PenaltyPhase",
    "PressAndRemove",
    "PruneAndRewind",
    "PruneAtInit",
    "PruneResult",
    "Rewind",
    "RoundPlan",
    "StageOne",
    "StochasticSparsification",
    "Supermask",
    "ThresholdPruning",
    "Ticket",
    "TicketSearch",
    "TicketTrainer",
    "TrainingData",
    "UniDLTH",
    "UniLTH",
    "__version__",
    "allocation",
    "analysis",
    "augmentation",
    "compact",
    "controls",
    "criteria",
    "curvature",
    "datasets",
    "distillation",
    "executors",
    "export",
    "find_frontier",
    "find_tickets",
    "find_units",
    "kernels",
    "layers",
    "masks",
    "models",
    "optimizers",
    "prune",
    "recipes",
    "register_rule",
    "saliency",
    "schedules",
    "search_recipes",
    "snapshots",
    "strip",
    "structures",
    "summary",
    "tfmot",
    "train_teachers",
    "train_ticket",
    "wrap",
]
