"""Distillation losses, which compare outputs, features and relations."""

from tf_tickets.distillation.losses import (
    DistillationLoss,
    FeatureDistillation,
    LogitsDistillation,
)
from tf_tickets.distillation.relations import (
    AngleDistillation,
    DistanceDistillation,
    SimilarityDistillation,
)

__all__ = [
    "AngleDistillation",
    "DistanceDistillation",
    "DistillationLoss",
    "FeatureDistillation",
    "LogitsDistillation",
    "SimilarityDistillation",
]
