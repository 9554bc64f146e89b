"""MobileNetV2 with a choice of blocks: the stock config cannot say which are left, so this one does."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    MobileNetV2ForImageClassification,
    MobileNetV2Model,
)

from har_prune.models.pruned_mobilenet_v2.configuration_pruned_mobilenet_v2 import PrunedMobileNetV2Config
from har_prune.models.pruned_mobilenet_v2.modeling_pruned_mobilenet_v2 import (
    PrunedMobileNetV2ForImageClassification,
    PrunedMobileNetV2Model,
)

AutoConfig.register(PrunedMobileNetV2Config.model_type, PrunedMobileNetV2Config)
AutoModel.register(PrunedMobileNetV2Config, PrunedMobileNetV2Model)
AutoModelForImageClassification.register(PrunedMobileNetV2Config, PrunedMobileNetV2ForImageClassification)

# Saved folders carry the code, so that trust_remote_code=True works where har_prune is not installed.
PrunedMobileNetV2Config.register_for_auto_class()
PrunedMobileNetV2Model.register_for_auto_class("AutoModel")
PrunedMobileNetV2ForImageClassification.register_for_auto_class("AutoModelForImageClassification")

# Class of a stock network -> its class once blocks are gone.
PRUNED_CLASSES = {
    MobileNetV2Model: PrunedMobileNetV2Model,
    MobileNetV2ForImageClassification: PrunedMobileNetV2ForImageClassification,
}

__all__ = [
    "PRUNED_CLASSES",
    "PrunedMobileNetV2Config",
    "PrunedMobileNetV2ForImageClassification",
    "PrunedMobileNetV2Model",
]
