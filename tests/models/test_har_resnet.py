import json

import pytest
import torch
from families import har_resnet
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForSequenceClassification

from har_prune import HarFeatureExtractor, HarResNetConfig, HarResNetModel


def test_the_auto_classes_know_it(tmp_path):
    model = har_resnet()
    model.save_pretrained(tmp_path)
    HarFeatureExtractor(num_channels=6).save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), HarResNetConfig)
    assert isinstance(AutoModel.from_pretrained(tmp_path), HarResNetModel)
    assert isinstance(AutoModelForSequenceClassification.from_pretrained(tmp_path), type(model))
    assert isinstance(AutoFeatureExtractor.from_pretrained(tmp_path), HarFeatureExtractor)
    for reference in json.loads((tmp_path / "config.json").read_text())["auto_map"].values():
        assert (tmp_path / f"{reference.split('.')[0]}.py").exists()


def test_outputs():
    model = har_resnet(depths=[1, 2, 1])
    windows = torch.randn(2, 32, 6)
    output = model(windows, labels=torch.tensor([0, 2]), output_hidden_states=True)
    assert output.logits.shape == (2, 3)
    assert [tuple(hidden.shape) for hidden in output.hidden_states] == [
        (2, 8, 32),
        (2, 8, 32),
        (2, 12, 16),
        (2, 16, 8),
    ]
    expected = torch.nn.functional.cross_entropy(output.logits, torch.tensor([0, 2]))
    assert output.loss.item() == pytest.approx(expected.item())
    assert torch.equal(model(windows, return_dict=False)[0], output.logits)


@pytest.mark.parametrize("samples", [20, 21, 31])
def test_a_masked_window_gives_what_the_short_window_gives(samples):
    model = har_resnet()
    windows, mask = torch.randn(3, 32, 6), torch.ones(3, 32)
    mask[:, samples:] = 0
    short = model(windows[:, :samples]).logits
    windows[:, samples:] = 99
    torch.testing.assert_close(model(windows, attention_mask=mask).logits, short)


def test_bad_shapes_and_bad_configs_say_what_is_allowed():
    model = har_resnet()
    with pytest.raises(ValueError, match=r"expected \[batch, samples, 6\]"):
        model(torch.zeros(2, 32, 5))
    with pytest.raises(ValueError, match="40 samples; this model takes 1 to 32"):
        model(torch.zeros(2, 40, 6))
    for fields, message in (
        ({"depths": [1, 1]}, "one entry a stage"),
        ({"depths": [1, 0, 1]}, "each depth at least 1"),
        ({"kernel_size": 4}, "must be odd"),
        ({"num_channels": 0}, "must be at least 1"),
    ):
        with pytest.raises(StrictDataclassError, match=message):
            HarResNetConfig(**fields)
