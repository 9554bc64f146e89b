import pytest
from transformers import AutoFeatureExtractor

from har_prune import HarFeatureExtractor, HarTransformerConfig, HarTransformerForSequenceClassification, save_pruned
from har_prune.data.load import load_data


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    data = load_data("synthetic")
    config = HarTransformerConfig(
        num_channels=data.values.shape[2], window_size=data.values.shape[1], hidden_size=16, num_attention_heads=2,
        intermediate_size=16, num_hidden_layers=3, id2label=dict(enumerate(data.label_names)),
    )  # fmt: skip
    extractor = HarFeatureExtractor(
        num_channels=data.values.shape[2], window_size=data.values.shape[1],
        sampling_rate_hz=data.sensor["sampling_rate_hz"],
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("checkpoint") / "model"
    save_pruned(HarTransformerForSequenceClassification(config).eval(), folder, processor=extractor)
    assert AutoFeatureExtractor.from_pretrained(folder)
    return str(folder)
