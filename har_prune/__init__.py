"""har_prune: makes HAR Transformers, vision ResNets and other Transformers models shallower.

Importing it registers its own models with transformers' Auto classes and changes nothing else.
"""

from har_prune.blocks.families import Family, register_family
from har_prune.blocks.find import find_blocks
from har_prune.blocks.rebuild import remove_blocks
from har_prune.blocks.stack import BlockStack
from har_prune.checkpoints.push import Pushed, push_pruned
from har_prune.checkpoints.save import save_pruned
from har_prune.errors import HarPruneError
from har_prune.evaluation.config import EvaluateConfig
from har_prune.evaluation.cost import Cost, measure_cost
from har_prune.evaluation.latency import Latency, measure_latency
from har_prune.evaluation.macs import count_macs
from har_prune.evaluation.measurement import register_measurement
from har_prune.evaluation.metrics import EvalMetrics, evaluate_model
from har_prune.models.cifar_resnet import CifarResNetConfig, CifarResNetForImageClassification, CifarResNetModel
from har_prune.models.har_transformer import (
    HarFeatureExtractor,
    HarTransformerConfig,
    HarTransformerForSequenceClassification,
    HarTransformerModel,
)
from har_prune.models.pruned_mobilenet_v2 import (
    PrunedMobileNetV2Config,
    PrunedMobileNetV2ForImageClassification,
    PrunedMobileNetV2Model,
)
from har_prune.pruning.config import PruneConfig, Target
from har_prune.pruning.history import PruningHistory, PruningStep
from har_prune.pruning.loop import PruningResult, prune
from har_prune.scoring.cka import CkaMoments, linear_cka
from har_prune.scoring.config import CalibrationConfig, Layout, RaceConfig, ScoringConfig
from har_prune.scoring.criteria.base import register_criterion
from har_prune.scoring.race import Race, race_blocks
from har_prune.scoring.score import BlockScore, score_blocks, score_criteria
from har_prune.training.config import DistillConfig, HealConfig, TrainConfig
from har_prune.training.loop import Teacher, train_model

__version__ = "0.1.0"

__all__ = [
    "BlockScore",
    "BlockStack",
    "CalibrationConfig",
    "CifarResNetConfig",
    "CifarResNetForImageClassification",
    "CifarResNetModel",
    "CkaMoments",
    "Cost",
    "DistillConfig",
    "EvalMetrics",
    "EvaluateConfig",
    "Family",
    "HarFeatureExtractor",
    "HarPruneError",
    "HarTransformerConfig",
    "HarTransformerForSequenceClassification",
    "HarTransformerModel",
    "HealConfig",
    "Latency",
    "Layout",
    "PruneConfig",
    "PrunedMobileNetV2Config",
    "PrunedMobileNetV2ForImageClassification",
    "PrunedMobileNetV2Model",
    "PruningHistory",
    "PruningResult",
    "PruningStep",
    "Pushed",
    "Race",
    "RaceConfig",
    "ScoringConfig",
    "Target",
    "Teacher",
    "TrainConfig",
    "count_macs",
    "evaluate_model",
    "find_blocks",
    "linear_cka",
    "measure_cost",
    "measure_latency",
    "prune",
    "push_pruned",
    "race_blocks",
    "register_criterion",
    "register_family",
    "register_measurement",
    "remove_blocks",
    "save_pruned",
    "score_blocks",
    "score_criteria",
    "train_model",
]
