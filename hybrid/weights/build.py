"""The trainer of a method. Does not: import torch before a trainer trains."""

from __future__ import annotations

from hybrid.weights.base import Method, WeightTrainer
from hybrid.weights.distill import DistillTrainer
from hybrid.weights.grpo import GrpoTrainer
from hybrid.weights.sft import SftTrainer
from hybrid.weights.svf.trainer import SvfTrainer
from hybrid.weights.tree.trainer import TreeTrainer


def build_trainer(method: Method) -> WeightTrainer:
    """The trainer that `weights.method` names. Raises ValueError for one that trains nothing."""
    trainers: dict[Method, WeightTrainer] = {
        "grpo": GrpoTrainer(),
        "sft": SftTrainer(),
        "distill": DistillTrainer(),
        "tree": TreeTrainer(),
        "svf": SvfTrainer(),
    }
    if method not in trainers:
        raise ValueError(f"method {method} has no trainer")
    return trainers[method]
