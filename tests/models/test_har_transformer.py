import json

import numpy as np
import pytest
import torch
from families import har_transformer
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForSequenceClassification,
)

from har_prune import HarFeatureExtractor, HarTransformerConfig, HarTransformerModel
from har_prune.models.har_transformer.modeling_har_transformer import HarTransformerDropout


def test_the_auto_classes_know_it(tmp_path):
    model = har_transformer(2)
    model.save_pretrained(tmp_path)
    HarFeatureExtractor(num_channels=6).save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), HarTransformerConfig)
    assert isinstance(AutoModel.from_pretrained(tmp_path), HarTransformerModel)
    assert isinstance(AutoModelForSequenceClassification.from_pretrained(tmp_path), type(model))
    assert isinstance(AutoFeatureExtractor.from_pretrained(tmp_path), HarFeatureExtractor)
    auto_map = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert set(auto_map) == {"AutoConfig", "AutoModel", "AutoModelForSequenceClassification"}
    for reference in auto_map.values():
        assert (tmp_path / f"{reference.split('.')[0]}.py").exists()


@pytest.mark.parametrize("fields", [{}, {"pooling": "cls", "norm_position": "post"}])
def test_outputs(fields):
    model = har_transformer(3, **fields)
    windows, patches = torch.randn(2, 32, 6), 7 + (fields.get("pooling") == "cls")
    output = model(windows, labels=torch.tensor([0, 2]), output_hidden_states=True, output_attentions=True)
    assert output.logits.shape == (2, 3)
    assert [h.shape for h in output.hidden_states] == [(2, patches, 32)] * 4
    assert [a.shape for a in output.attentions] == [(2, 4, patches, patches)] * 3
    assert torch.allclose(output.attentions[0].sum(-1), torch.ones(2, 4, patches))
    assert output.loss.item() == pytest.approx(
        torch.nn.functional.cross_entropy(output.logits, torch.tensor([0, 2])).item()
    )
    assert torch.allclose(model(windows).logits, output.logits, atol=1e-6), "SDPA equals the written-out attention"
    assert torch.equal(model(windows, return_dict=False)[0], model(windows).logits)


@pytest.mark.parametrize(
    "fields",
    [
        {"pooling": "mean"},
        {"pooling": "cls"},
        {"stem_channels": [8, 12], "patch_size": 1, "patch_stride": 1},
        {"stem_channels": [8], "patch_size": 2, "patch_stride": 2, "stem_kernel_size": 9},
    ],
)
def test_a_masked_window_gives_what_the_short_window_gives(fields):
    model = har_transformer(2, **fields)
    windows, mask = torch.randn(3, 32, 6), torch.ones(3, 32)
    mask[:, 20:] = 0
    short = model(windows[:, :20]).logits
    windows[:, 20:] = 99
    assert torch.allclose(model(windows, attention_mask=mask).logits, short, atol=1e-6)


def test_activation_checkpointing_gives_the_same_gradients():
    model = har_transformer(2, hidden_dropout_prob=0.0).train()
    windows, labels = torch.randn(2, 32, 6), torch.tensor([0, 1])
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        model(windows, labels=labels).loss.backward()
        gradients.append(model.har_transformer.embeddings.projection.weight.grad.clone())
    assert torch.allclose(*gradients, atol=1e-6)


def test_bad_shapes_and_bad_configs_say_what_is_allowed():
    model = har_transformer(1)
    with pytest.raises(ValueError, match=r"expected \[batch, samples, 6\]"):
        model(torch.zeros(2, 32, 5))
    with pytest.raises(ValueError, match="40 samples; this model takes 8 to 32"):
        model(torch.zeros(2, 40, 6))
    for fields, message in (
        ({"hidden_size": 30}, "not a multiple"),
        ({"pooling": "max"}, "choose 'mean' or 'cls'"),
        ({"norm_position": "mid"}, "choose 'pre' or 'post'"),
        ({"patch_size": 300}, "does not fit window_size"),
        ({"num_hidden_layers": 0}, "at least 1"),
        ({"stem_kernel_size": 4}, "must be odd"),
        ({"stem_channels": [8, 8], "window_size": 28}, "does not fit window_size=28 behind 2 convolutions"),
        ({"stem_channels": [8, 0]}, "each must be at least 1"),
        ({"hidden_size": "64"}, "hidden_size"),
    ):
        with pytest.raises(StrictDataclassError, match=message):
            HarTransformerConfig(**fields)


def test_the_extractor_normalises_resamples_pads_and_masks(tmp_path):
    extractor = HarFeatureExtractor(
        num_channels=2, sampling_rate_hz=32, window_size=64, channel_mean=[9.8, 0.0], channel_std=[2.0, 0.5]
    )
    extractor.save_pretrained(tmp_path)
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert extractor.window_size == 64, "an attribute called window would have been dropped"
    time = np.arange(100) / 50
    recording = np.stack([9.8 + 2 * np.sin(2 * np.pi * time), np.full(100, 0.5)], axis=1)
    features = extractor(recording, sampling_rate_hz=50, return_tensors="pt")
    assert features["input_values"].shape == (1, 64, 2)
    expected = torch.sin(2 * torch.pi * torch.arange(64) / 32)
    # Away from the ends, where the filter has neighbours on both sides.
    assert torch.allclose(features["input_values"][0, 8:-8, 0], expected[8:-8], atol=0.02)
    assert torch.allclose(features["input_values"][0, :, 1], torch.ones(64), atol=1e-3)
    batch = extractor([recording[:10], recording[:64]], return_tensors="pt")
    assert batch["attention_mask"].sum(dim=1).tolist() == [10, 64]
    assert (batch["input_values"][0, 10:] == 0).all()
    array = extractor(np.zeros((3, 64, 2)))
    assert array["input_values"].shape == (3, 64, 2)
    assert array["input_values"].dtype == np.float32


def test_a_recording_longer_than_the_window_is_cut_as_the_message_says():
    extractor = HarFeatureExtractor(num_channels=2, sampling_rate_hz=20, window_size=51)  # 2.55 s
    recording = np.random.default_rng(0).normal(size=(19_200, 2))
    for rate in (20, 50, 10):
        with pytest.raises(ValueError, match=rf"recording 0 has 19200 samples \(.* at {rate} Hz\)") as refused:
            extractor(recording, sampling_rate_hz=rate)
        found = {"recording": recording}
        exec(str(refused.value).partition("Cut it: ")[2], found)
        made = extractor(found["windows"], sampling_rate_hz=rate)
        assert made["input_values"].shape == (19_200 // int(2.55 * rate), 51, 2)
    assert extractor(recording[:51]).input_values.shape == (1, 51, 2)
    with pytest.raises(ValueError, match="has 52 samples"):
        extractor(recording[:52])
    # Windows of 2.56 s at 50 Hz are within a sample of 2.55 s: resampling makes 52 of them, the last is dropped.
    assert extractor(recording[:128], sampling_rate_hz=50).input_values.shape == (1, 51, 2)


def test_the_extractor_refuses_what_it_cannot_use():
    extractor = HarFeatureExtractor(num_channels=2)
    with pytest.raises(ValueError, match=r"recording 1 holds .* sample 3, channel 1"):
        extractor([np.zeros((5, 2)), np.where(np.arange(10).reshape(5, 2) == 7, np.nan, 0.0)])
    with pytest.raises(ValueError, match=r"shape \(5, 3\); expected \[samples, 2\]"):
        extractor(np.zeros((5, 3)))
    with pytest.raises(ValueError, match="sampling_rate_hz=0: must be above 0"):
        extractor(np.zeros((5, 2)), sampling_rate_hz=0)
    with pytest.raises(ValueError, match="num_channels=2"):
        HarFeatureExtractor(num_channels=2, channel_mean=[0.0])
    for std, message in (([1.0, 0.0], "above 0"), ([1.0, -2.0], "above 0"), ([1.0, float("nan")], "finite")):
        with pytest.raises(ValueError, match=message):
            HarFeatureExtractor(num_channels=2, channel_std=std)


def test_dropout_keeps_the_mean_and_drops_the_stated_share():
    dropout = HarTransformerDropout(0.25).train()
    values = torch.ones(200, 501, requires_grad=True)
    dropped = dropout(values)
    assert dropped.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert dropped.eq(0).float().mean() == pytest.approx(0.25, abs=0.01)
    rows = dropped.detach().ne(0).float()
    assert torch.corrcoef(rows[:50])[0, 1:].abs().max() < 0.25, "rows are drawn by themselves"
    dropped.sum().backward()
    assert torch.equal(values.grad, dropped.detach())
    assert torch.equal(dropout.eval()(values), values)
    assert torch.equal(HarTransformerDropout(0.0).train()(values), values)
