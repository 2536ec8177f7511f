"""The trainer of a method. Does not: import torch before a trainer trains."""

from __future__ import annotations

from hybrid.weights.base import Method, WeightTrainer
from hybrid.weights.grpo import GrpoTrainer
from hybrid.weights.sft import SftTrainer


def build_trainer(method: Method) -> WeightTrainer:
    """The trainer that `weights.method` names."""
    return GrpoTrainer() if method == "grpo" else SftTrainer()
