"""One-dimensional ResNets over windows of wearable-sensor samples, registered with transformers' Auto classes."""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForSequenceClassification

from har_prune.models.har_resnet.configuration_har_resnet import HarResNetConfig
from har_prune.models.har_resnet.modeling_har_resnet import HarResNetForSequenceClassification, HarResNetModel
from har_prune.models.har_transformer.feature_extraction_har_transformer import HarFeatureExtractor

AutoConfig.register(HarResNetConfig.model_type, HarResNetConfig)
AutoModel.register(HarResNetConfig, HarResNetModel)
AutoModelForSequenceClassification.register(HarResNetConfig, HarResNetForSequenceClassification)
AutoFeatureExtractor.register(HarResNetConfig, HarFeatureExtractor)

# Saved folders carry the code, so that trust_remote_code=True works where har_prune is not installed.
HarResNetConfig.register_for_auto_class()
HarResNetModel.register_for_auto_class("AutoModel")
HarResNetForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")

__all__ = ["HarResNetConfig", "HarResNetForSequenceClassification", "HarResNetModel"]
