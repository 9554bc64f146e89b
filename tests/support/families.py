"""Tiny models of every registered family, on HAR_PRUNE_TEST_DEVICE. A test fails when a family is missing here."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import transformers as t
from transformers import PreTrainedModel

import har_prune

WIDTHS = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}
# A GPU adds in another order than the fresh process, which is on the CPU.
CLOSE = {"rtol": 1e-4, "atol": 1e-5} if os.environ.get("HAR_PRUNE_TEST_DEVICE") else {"rtol": 1e-5, "atol": 1e-6}
_IMAGES = {"image_size": 16, "patch_size": 8}
TOKENS = {"vocab_size": 50, "max_position_embeddings": 34, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
_SERIES = {"num_input_channels": 3, "context_length": 32, "patch_length": 8, "patch_stride": 8}
_STAGES = {"hidden_sizes": [8, 12, 16], "depths": [3, 3, 2]}


def har_transformer(depth: int = 4, **fields: Any) -> PreTrainedModel:
    config = har_prune.HarTransformerConfig(
        num_channels=6, window_size=32, num_hidden_layers=depth, num_labels=3, **WIDTHS, **fields
    )
    return har_prune.HarTransformerForSequenceClassification(config).eval()


def har_resnet(**fields: Any) -> PreTrainedModel:
    sizes = {"num_channels": 6, "window_size": 32, "hidden_sizes": [8, 12, 16], "depths": [3, 2, 3]}
    config = har_prune.HarResNetConfig(**{**sizes, "num_labels": 3, **fields})
    return har_prune.HarResNetForSequenceClassification(config).eval()


def cifar_resnet(**fields: Any) -> PreTrainedModel:
    config = har_prune.CifarResNetConfig(**{**_STAGES, "image_size": 16, "num_labels": 3, **fields})
    return har_prune.CifarResNetForImageClassification(config).eval()


def tiny(model_class: type[PreTrainedModel], **fields: Any) -> PreTrainedModel:
    """A model of some class of transformers; its classifier, if it has one, tells three classes apart."""
    return model_class(model_class.config_class(**fields)).eval()


def classifier(model_class: type[PreTrainedModel], **fields: Any) -> PreTrainedModel:
    return tiny(model_class, num_labels=3, **fields)


def resnet_basic() -> PreTrainedModel:
    return classifier(
        t.ResNetForImageClassification,
        **{"embedding_size": 8, "hidden_sizes": [8, 12, 16], "depths": [2, 3, 2], "layer_type": "basic"},
    )


def vit() -> PreTrainedModel:
    return classifier(t.ViTForImageClassification, num_hidden_layers=4, **_IMAGES, **WIDTHS)


def swin(model_class: type[PreTrainedModel] = t.SwinForImageClassification) -> PreTrainedModel:
    return classifier(
        model_class, image_size=32, patch_size=2, embed_dim=8, depths=[4, 3], num_heads=[2, 2], window_size=4
    )


def llama(depth: int = 4, **fields: Any) -> PreTrainedModel:
    return tiny(
        t.LlamaForCausalLM,
        **{"num_hidden_layers": depth, "num_key_value_heads": 2, **WIDTHS, **TOKENS, **fields},
    )


def gpt2(**fields: Any) -> PreTrainedModel:
    names = {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 34, "bos_token_id": 0, "eos_token_id": 1}
    return tiny(t.GPT2LMHeadModel, **{**names, "vocab_size": 50, "pad_token_id": 2, **fields})


def decoder(model_class: type[PreTrainedModel], **fields: Any) -> PreTrainedModel:
    return tiny(model_class, num_hidden_layers=4, num_key_value_heads=2, **WIDTHS, **TOKENS, **fields)


OURS = ("har_transformer", "har_resnet", "cifar_resnet", "pruned_mobilenet_v2")  # their code travels with them


class Tiny(NamedTuple):
    """A tiny model: its family, how it is made, and which of its blocks may go."""

    model_type: str
    make: Callable[[], PreTrainedModel]
    removable: list[int]


_FOUR = [0, 1, 2, 3]
_SWIN = [0, 1, 2, 3, 4, 5, 6]
_SLIDING = {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 4}

_MADE: dict[str, Tiny] = {
    "har_transformer": Tiny("har_transformer", har_transformer, _FOUR),
    "har_transformer_post_norm": Tiny(
        "har_transformer", partial(har_transformer, norm_position="post", pooling="cls"), _FOUR
    ),
    "har_transformer_stem": Tiny(
        "har_transformer", partial(har_transformer, stem_channels=[8, 12], patch_size=2, patch_stride=2), _FOUR
    ),
    "har_resnet": Tiny("har_resnet", har_resnet, [0, 1, 2, 4, 6, 7]),
    "cifar_resnet": Tiny("cifar_resnet", cifar_resnet, [0, 1, 2, 4, 5, 7]),
    "cifar_resnet_tensorflow": Tiny(
        "cifar_resnet",
        partial(cifar_resnet, padding="tensorflow", conv_bias=True, projection_norm=False, subtract_pixel_mean=True),
        [0, 1, 2, 4, 5, 7],
    ),
    "cifar_resnet_zero_pad": Tiny("cifar_resnet", partial(cifar_resnet, shortcut="zero_pad"), [0, 1, 2, 4, 5, 7]),
    "resnet_basic": Tiny("resnet", resnet_basic, [0, 1, 3, 4, 6]),
    "resnet_bottleneck": Tiny(
        "resnet",
        partial(
            classifier, t.ResNetForImageClassification, embedding_size=8, hidden_sizes=[16, 24, 32], depths=[2, 3, 2]
        ),
        [1, 3, 4, 6],
    ),
    "regnet": Tiny(
        "regnet",
        partial(classifier, t.RegNetForImageClassification, embedding_size=8, groups_width=4, **_STAGES),
        [1, 2, 4, 5, 7],
    ),
    "convnext": Tiny(
        "convnext",
        partial(classifier, t.ConvNextForImageClassification, image_size=32, num_stages=3, **_STAGES),
        [0, 1, 2, 3, 4, 5, 6, 7],
    ),
    "mobilenet_v2": Tiny(
        "mobilenet_v2",
        partial(classifier, t.MobileNetV2ForImageClassification, image_size=64, depth_multiplier=0.25),
        [1, 3, 4, 6, 7, 8, 10, 11, 13, 14],
    ),
    "pruned_mobilenet_v2": Tiny(
        "pruned_mobilenet_v2",
        partial(
            classifier,
            har_prune.PrunedMobileNetV2ForImageClassification,
            image_size=64,
            depth_multiplier=0.25,
            kept_blocks=[0, 1, 2, 4, 5, 6, 7, 9, 11, 12, 13, 15],
        ),
        [1, 3, 5, 6, 8, 10],
    ),
    "vit": Tiny("vit", vit, _FOUR),
    "deit": Tiny(
        "deit", partial(classifier, t.DeiTForImageClassification, num_hidden_layers=4, **_IMAGES, **WIDTHS), _FOUR
    ),
    "dinov2": Tiny(
        "dinov2",
        partial(
            classifier,
            t.Dinov2ForImageClassification,
            **{"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 4, "mlp_ratio": 2, **_IMAGES},
        ),
        _FOUR,
    ),
    "swin": Tiny("swin", swin, _SWIN),
    "swinv2": Tiny("swinv2", partial(swin, t.Swinv2ForImageClassification), _SWIN),
    "bert": Tiny(
        "bert", partial(classifier, t.BertForSequenceClassification, num_hidden_layers=4, **WIDTHS, **TOKENS), _FOUR
    ),
    "roberta": Tiny(
        "roberta",
        partial(classifier, t.RobertaForSequenceClassification, num_hidden_layers=4, **WIDTHS, **TOKENS),
        _FOUR,
    ),
    "distilbert": Tiny(
        "distilbert",
        partial(
            classifier,
            t.DistilBertForSequenceClassification,
            **{"n_layers": 4, "dim": 32, "n_heads": 4, "hidden_dim": 48, **TOKENS},
        ),
        _FOUR,
    ),
    "wav2vec2": Tiny(
        "wav2vec2",
        partial(
            classifier,
            t.Wav2Vec2ForSequenceClassification,
            **{"num_hidden_layers": 4, "conv_dim": (16, 16), "conv_kernel": (10, 3), "conv_stride": (5, 2)},
            **{"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "classifier_proj_size": 8},
            **{"num_feat_extract_layers": 2, **WIDTHS},
        ),
        _FOUR,
    ),
    "patchtst": Tiny(
        "patchtst",
        partial(
            tiny,
            t.PatchTSTForClassification,
            **{"num_hidden_layers": 4, "d_model": 32, "num_attention_heads": 4, "ffn_dim": 48, "num_targets": 3},
            **_SERIES,
        ),
        _FOUR,
    ),
    "patchtsmixer": Tiny(
        "patchtsmixer",
        partial(tiny, t.PatchTSMixerForTimeSeriesClassification, num_layers=4, d_model=32, num_targets=3, **_SERIES),
        _FOUR,
    ),
    "gpt2": Tiny("gpt2", gpt2, _FOUR),
    "llama": Tiny("llama", llama, _FOUR),
    "llama_tied": Tiny("llama", partial(llama, tie_word_embeddings=True), _FOUR),
    "qwen2": Tiny("qwen2", partial(decoder, t.Qwen2ForCausalLM), _FOUR),
    "qwen3": Tiny("qwen3", partial(decoder, t.Qwen3ForCausalLM, head_dim=8), _FOUR),
    "gemma3_text": Tiny("gemma3_text", partial(decoder, t.Gemma3ForCausalLM, head_dim=8, **_SLIDING), _FOUR),
}


def _placed(make: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    return make().to(os.environ.get("HAR_PRUNE_TEST_DEVICE", "cpu"))


TINY = {name: entry._replace(make=partial(_placed, entry.make)) for name, entry in _MADE.items()}

DECODERS = ["gpt2", "llama", "llama_tied", "qwen2", "qwen3", "gemma3_text"]
