"""A tiny HAR Transformer for the synthetic data, with its feature extractor."""

from transformers import AutoFeatureExtractor

from har_prune import HarFeatureExtractor, HarTransformerConfig, HarTransformerForSequenceClassification, save_pruned
from har_prune.data.load import load_data


def make(folder):
    """Writes it into a new folder; returns its path."""
    data = load_data("synthetic")
    config = HarTransformerConfig(
        num_channels=data.values.shape[2], window_size=data.values.shape[1], hidden_size=16, num_attention_heads=2,
        intermediate_size=16, num_hidden_layers=3, id2label=dict(enumerate(data.label_names)),
    )  # fmt: skip
    extractor = HarFeatureExtractor(
        num_channels=data.values.shape[2], window_size=data.values.shape[1],
        sampling_rate_hz=data.sensor["sampling_rate_hz"],
    )  # fmt: skip
    save_pruned(HarTransformerForSequenceClassification(config).eval(), folder, processor=extractor)
    assert AutoFeatureExtractor.from_pretrained(folder)
    return str(folder)
