"""The trainer of a method. Does not: import torch before a trainer trains."""

from __future__ import annotations

from hybrid.weights.base import Trainer, WeightTrainer
from hybrid.weights.distill import DistillTrainer
from hybrid.weights.grpo import GrpoTrainer
from hybrid.weights.sft import SftTrainer
from hybrid.weights.tree.trainer import TreeTrainer


def build_trainer(method: Trainer) -> WeightTrainer:
    """The trainer of a job's method."""
    trainers: dict[Trainer, WeightTrainer] = {
        "grpo": GrpoTrainer(),
        "sft": SftTrainer(),
        "distill": DistillTrainer(),
        "tree": TreeTrainer(),
    }
    return trainers[method]
