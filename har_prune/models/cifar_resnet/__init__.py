"""ResNets for 32x32 images with a free depth per stage, registered with transformers' Auto classes."""

from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

from har_prune.models.cifar_resnet.configuration_cifar_resnet import CifarResNetConfig
from har_prune.models.cifar_resnet.modeling_cifar_resnet import CifarResNetForImageClassification, CifarResNetModel

AutoConfig.register(CifarResNetConfig.model_type, CifarResNetConfig)
AutoModel.register(CifarResNetConfig, CifarResNetModel)
AutoModelForImageClassification.register(CifarResNetConfig, CifarResNetForImageClassification)

# Saved folders carry the code, so that trust_remote_code=True works where har_prune is not installed.
CifarResNetConfig.register_for_auto_class()
CifarResNetModel.register_for_auto_class("AutoModel")
CifarResNetForImageClassification.register_for_auto_class("AutoModelForImageClassification")

__all__ = ["CifarResNetConfig", "CifarResNetForImageClassification", "CifarResNetModel"]
