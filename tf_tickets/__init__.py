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

import tf_tickets.backend  # noqa: F401

# isort: split
from tf_tickets import (
    allocation,
    controls,
    criteria,
    curvature,
    datasets,
    distillation,
    layers,
    masks,
    models,
    optimizers,
    recipes,
    saliency,
    schedules,
    snapshots,
)
from tf_tickets.distiller import Distiller
from tf_tickets.exporting.exporter import export
from tf_tickets.exporting.reports import ExportReport
from tf_tickets.report import summary
from tf_tickets.search.atinit import PruneAtInit
from tf_tickets.search.cs import ContinuousSparsification
from tf_tickets.search.dlth import DLTH
from tf_tickets.search.dynamic import DynamicSparsity
from tf_tickets.search.finding import find_ticket
from tf_tickets.search.frontier import Frontier, find_frontier
from tf_tickets.search.gradual import GradualPruning
from tf_tickets.search.imp import IMP
from tf_tickets.search.iss import StochasticSparsification
from tf_tickets.search.kdlts import KDLTS
from tf_tickets.search.stopping import EarlyStopRewind
from tf_tickets.search.supermask import Supermask
from tf_tickets.search.teachers import train_teachers
from tf_tickets.search.threshold import ThresholdPruning
from tf_tickets.search.training import TicketTrainer, train_ticket
from tf_tickets.search.unilth import UniDLTH, UniLTH
from tf_tickets.tickets import Ticket
from tf_tickets.version import __version__
from tf_tickets.wrapping import strip, wrap

__all__ = [
    "ContinuousSparsification",
    "DLTH",
    "Distiller",
    "DynamicSparsity",
    "EarlyStopRewind",
    "ExportReport",
    "Frontier",
    "GradualPruning",
    "IMP",
    "KDLTS",
    "PruneAtInit",
    "StochasticSparsification",
    "Supermask",
    "ThresholdPruning",
    "Ticket",
    "TicketTrainer",
    "UniDLTH",
    "UniLTH",
    "__version__",
    "allocation",
    "controls",
    "criteria",
    "curvature",
    "datasets",
    "distillation",
    "export",
    "find_frontier",
    "find_ticket",
    "layers",
    "masks",
    "models",
    "optimizers",
    "recipes",
    "saliency",
    "schedules",
    "snapshots",
    "strip",
    "summary",
    "train_teachers",
    "train_ticket",
    "wrap",
]
