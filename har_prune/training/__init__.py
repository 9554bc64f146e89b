"""Training and healing: one Accelerate loop, distillation, augmentations."""

from har_prune.training.config import DistillConfig, HealConfig, TrainConfig
from har_prune.training.loop import Teacher, TrainingResult, train_model

__all__ = ["DistillConfig", "HealConfig", "Teacher", "TrainConfig", "TrainingResult", "train_model"]
