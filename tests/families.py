"""One tiny model for each registered family. A test fails when a family is missing here."""

from collections.abc import Callable

from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from har_prune import (
    CifarResNetConfig,
    CifarResNetForImageClassification,
    HarTransformerConfig,
    HarTransformerForSequenceClassification,
)

_WIDTHS = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}


def har_transformer(depth: int = 4, **fields: object) -> PreTrainedModel:
    config = HarTransformerConfig(
        num_channels=6, window_size=32, num_hidden_layers=depth, num_labels=3, **_WIDTHS, **fields
    )
    return HarTransformerForSequenceClassification(config).eval()


def cifar_resnet(**fields: object) -> PreTrainedModel:
    config = CifarResNetConfig(
        **{"hidden_sizes": [8, 12, 16], "depths": [3, 3, 2], "image_size": 16, "num_labels": 3, **fields}
    )
    return CifarResNetForImageClassification(config).eval()


def resnet_basic() -> PreTrainedModel:
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 12, 16], depths=[2, 3, 2], layer_type="basic", num_labels=3
    )
    return ResNetForImageClassification(config).eval()


def resnet_bottleneck() -> PreTrainedModel:
    config = ResNetConfig(embedding_size=8, hidden_sizes=[16, 24, 32], depths=[2, 3, 2], num_labels=3)
    return ResNetForImageClassification(config).eval()


def vit() -> PreTrainedModel:
    config = ViTConfig(num_hidden_layers=4, image_size=16, patch_size=8, num_labels=3, **_WIDTHS)
    return ViTForImageClassification(config).eval()


def bert() -> PreTrainedModel:
    config = BertConfig(num_hidden_layers=4, vocab_size=50, max_position_embeddings=32, num_labels=3, **_WIDTHS)
    return BertForSequenceClassification(config).eval()


# name -> (model type, maker, removable blocks)
TINY: dict[str, tuple[str, Callable[[], PreTrainedModel], list[int]]] = {
    "har_transformer": ("har_transformer", har_transformer, [0, 1, 2, 3]),
    "har_transformer_post_norm": (
        "har_transformer",
        lambda: har_transformer(norm_position="post", pooling="cls"),
        [0, 1, 2, 3],
    ),
    "cifar_resnet": ("cifar_resnet", cifar_resnet, [0, 1, 2, 4, 5, 7]),
    "cifar_resnet_tensorflow": (
        "cifar_resnet",
        lambda: cifar_resnet(padding="tensorflow", conv_bias=True, projection_norm=False, subtract_pixel_mean=True),
        [0, 1, 2, 4, 5, 7],
    ),
    "cifar_resnet_zero_pad": ("cifar_resnet", lambda: cifar_resnet(shortcut="zero_pad"), [0, 1, 2, 4, 5, 7]),
    "resnet_basic": ("resnet", resnet_basic, [0, 1, 3, 4, 6]),
    "resnet_bottleneck": ("resnet", resnet_bottleneck, [1, 3, 4, 6]),
    "vit": ("vit", vit, [0, 1, 2, 3]),
    "bert": ("bert", bert, [0, 1, 2, 3]),
}
