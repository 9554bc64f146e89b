"""Encoder over windows of wearable-sensor samples, registered with transformers' Auto classes."""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForSequenceClassification

from har_prune.models.har_transformer.configuration_har_transformer import HarTransformerConfig
from har_prune.models.har_transformer.feature_extraction_har_transformer import HarFeatureExtractor
from har_prune.models.har_transformer.modeling_har_transformer import (
    HarTransformerForSequenceClassification,
    HarTransformerModel,
)

AutoConfig.register(HarTransformerConfig.model_type, HarTransformerConfig)
AutoModel.register(HarTransformerConfig, HarTransformerModel)
AutoModelForSequenceClassification.register(HarTransformerConfig, HarTransformerForSequenceClassification)
AutoFeatureExtractor.register(HarTransformerConfig, HarFeatureExtractor)

# Saved folders carry the code, so that trust_remote_code=True works where har_prune is not installed.
HarTransformerConfig.register_for_auto_class()
HarTransformerModel.register_for_auto_class("AutoModel")
HarTransformerForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
HarFeatureExtractor.register_for_auto_class("AutoFeatureExtractor")

__all__ = [
    "HarFeatureExtractor",
    "HarTransformerConfig",
    "HarTransformerForSequenceClassification",
    "HarTransformerModel",
]
