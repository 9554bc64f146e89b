"""MobileNetV2 without some of its blocks. Self-contained: this file travels with every saved checkpoint."""

from torch import nn
from transformers import MobileNetV2ForImageClassification, MobileNetV2Model

from .configuration_pruned_mobilenet_v2 import PrunedMobileNetV2Config


def _drop_blocks(model: MobileNetV2Model) -> None:
    model.layer = nn.ModuleList(model.layer[index] for index in model.config.kept_blocks)


class PrunedMobileNetV2Model(MobileNetV2Model):
    """MobileNetV2 features, with the blocks `config.kept_blocks` names."""

    config_class = PrunedMobileNetV2Config

    def __init__(self, config: PrunedMobileNetV2Config, add_pooling_layer: bool = True):
        super().__init__(config, add_pooling_layer)
        _drop_blocks(self)


class PrunedMobileNetV2ForImageClassification(MobileNetV2ForImageClassification):
    """MobileNetV2 classifier, with the blocks `config.kept_blocks` names."""

    config_class = PrunedMobileNetV2Config

    def __init__(self, config: PrunedMobileNetV2Config):
        super().__init__(config)
        _drop_blocks(self.mobilenet_v2)
