"""har_prune: makes HAR Transformers, vision ResNets and other Transformers models shallower.

Importing it registers its own models with transformers' Auto classes and changes nothing else. Everything else is
loaded when it is first used (PEP 562).
"""

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

from har_prune.models.cifar_resnet import CifarResNetConfig, CifarResNetForImageClassification, CifarResNetModel
from har_prune.models.har_resnet import HarResNetConfig, HarResNetForSequenceClassification, HarResNetModel
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

if TYPE_CHECKING:
    from har_prune.blocks.families import Family, WidthKind, register_family
    from har_prune.blocks.find import find_blocks
    from har_prune.blocks.rebuild import remove_blocks
    from har_prune.blocks.stack import BlockStack
    from har_prune.checkpoints.push import Pushed, push_pruned
    from har_prune.checkpoints.save import save_pruned
    from har_prune.errors import HarPruneError
    from har_prune.evaluation.config import EvaluateConfig, RobustnessConfig
    from har_prune.evaluation.cost import Cost, measure_cost
    from har_prune.evaluation.latency import Latency, measure_latency
    from har_prune.evaluation.macs import count_macs, macs_by_module
    from har_prune.evaluation.measurement import register_measurement
    from har_prune.evaluation.metrics import EvalMetrics, evaluate_model
    from har_prune.evaluation.robustness.measure import Robustness, measure_robustness
    from har_prune.evaluation.robustness.registry import register_corruption
    from har_prune.exporters.export import Export, export_model
    from har_prune.inference.metrics import compare_timelines
    from har_prune.inference.pipeline import HarPipeline
    from har_prune.inference.smoothing import Activities, Smoothing
    from har_prune.inference.stream import HarStream
    from har_prune.pruning.config import PruneConfig
    from har_prune.pruning.history import PruningHistory, PruningStep
    from har_prune.pruning.loop import PruningResult, prune
    from har_prune.pruning.target import Target
    from har_prune.scoring.cka import CkaMoments, linear_cka
    from har_prune.scoring.config import CalibrationConfig, ExecutionPlan, RaceConfig, ScoringConfig
    from har_prune.scoring.criteria.base import register_criterion
    from har_prune.scoring.criteria.units import register_unit_criterion
    from har_prune.scoring.score import race_blocks, score_blocks, score_criteria
    from har_prune.scoring.scores import BlockScore, Race, Scores
    from har_prune.scoring.units import score_units
    from har_prune.training.config import DistillConfig, HealConfig, TrainConfig
    from har_prune.training.distill import Teacher
    from har_prune.training.loop import train_model
    from har_prune.widths.find import find_widths
    from har_prune.widths.rebuild import remove_units
    from har_prune.widths.stack import Width, WidthStack

__version__ = "0.2.0"

_PUBLIC = {
    "blocks.families": (
        "Family",
        "WidthKind",
        "register_family",
    ),
    "blocks.find": ("find_blocks",),
    "blocks.rebuild": ("remove_blocks",),
    "blocks.stack": ("BlockStack",),
    "checkpoints.push": (
        "Pushed",
        "push_pruned",
    ),
    "checkpoints.save": ("save_pruned",),
    "errors": ("HarPruneError",),
    "evaluation.config": (
        "EvaluateConfig",
        "RobustnessConfig",
    ),
    "evaluation.cost": (
        "Cost",
        "measure_cost",
    ),
    "evaluation.latency": (
        "Latency",
        "measure_latency",
    ),
    "evaluation.macs": (
        "count_macs",
        "macs_by_module",
    ),
    "evaluation.measurement": ("register_measurement",),
    "evaluation.metrics": (
        "EvalMetrics",
        "evaluate_model",
    ),
    "evaluation.robustness.measure": (
        "Robustness",
        "measure_robustness",
    ),
    "evaluation.robustness.registry": ("register_corruption",),
    "exporters.export": (
        "Export",
        "export_model",
    ),
    "inference.metrics": ("compare_timelines",),
    "inference.pipeline": ("HarPipeline",),
    "inference.smoothing": ("Activities", "Smoothing"),
    "inference.stream": ("HarStream",),
    "pruning.config": ("PruneConfig",),
    "pruning.history": (
        "PruningHistory",
        "PruningStep",
    ),
    "pruning.loop": (
        "PruningResult",
        "prune",
    ),
    "pruning.target": ("Target",),
    "scoring.cka": (
        "CkaMoments",
        "linear_cka",
    ),
    "scoring.config": (
        "CalibrationConfig",
        "ExecutionPlan",
        "RaceConfig",
        "ScoringConfig",
    ),
    "scoring.criteria.base": ("register_criterion",),
    "scoring.criteria.units": ("register_unit_criterion",),
    "scoring.score": (
        "race_blocks",
        "score_blocks",
        "score_criteria",
    ),
    "scoring.scores": (
        "BlockScore",
        "Race",
        "Scores",
    ),
    "scoring.units": ("score_units",),
    "training.config": (
        "DistillConfig",
        "HealConfig",
        "TrainConfig",
    ),
    "training.distill": ("Teacher",),
    "training.loop": ("train_model",),
    "widths.find": ("find_widths",),
    "widths.rebuild": ("remove_units",),
    "widths.stack": (
        "Width",
        "WidthStack",
    ),
}
_HOMES = {name: module for module, names in _PUBLIC.items() for name in names}

# Names of 0.1; gone in 0.3.
_FORMER = {
    "LatencyStats": "Latency",
    "Layout": "ExecutionPlan",
    "Quality": "EvalMetrics",
}

__all__ = [
    "Activities",
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
    "ExecutionPlan",
    "Export",
    "Family",
    "HarFeatureExtractor",
    "HarPipeline",
    "HarPruneError",
    "HarResNetConfig",
    "HarResNetForSequenceClassification",
    "HarResNetModel",
    "HarStream",
    "HarTransformerConfig",
    "HarTransformerForSequenceClassification",
    "HarTransformerModel",
    "HealConfig",
    "Latency",
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
    "Robustness",
    "RobustnessConfig",
    "Scores",
    "ScoringConfig",
    "Smoothing",
    "Target",
    "Teacher",
    "TrainConfig",
    "Width",
    "WidthKind",
    "WidthStack",
    "compare_timelines",
    "count_macs",
    "evaluate_model",
    "export_model",
    "find_blocks",
    "find_widths",
    "linear_cka",
    "macs_by_module",
    "measure_cost",
    "measure_latency",
    "measure_robustness",
    "prune",
    "push_pruned",
    "race_blocks",
    "register_corruption",
    "register_criterion",
    "register_family",
    "register_measurement",
    "register_unit_criterion",
    "remove_blocks",
    "remove_units",
    "save_pruned",
    "score_blocks",
    "score_criteria",
    "score_units",
    "train_model",
]


def __getattr__(name: str) -> Any:
    if name in _FORMER:
        new = _FORMER[name]
        warnings.warn(f"har_prune.{name} is now har_prune.{new} (since 0.2)", DeprecationWarning, stacklevel=2)
        name = new
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
