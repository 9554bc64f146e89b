"""Training and healing: one Accelerate loop, distillation, augmentations."""

from har_prune.training.config import DistillConfig, HealConfig, TrainConfig
from har_prune.training.loop import TrainingResult, train_model

__all__ = ["DistillConfig", "HealConfig", "TrainConfig", "TrainingResult", "train_model"]
