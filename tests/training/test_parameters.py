"""What of a network is trained: normalisations and head, or low-rank updates."""

import pytest
import torch
from families import TINY, cifar_resnet, har_transformer
from tiny_data import loader

from har_prune import TrainConfig, train_model
from har_prune.errors import RecipeError
from har_prune.training.parameters import TrainedParameters


def _changed(model, before):
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def test_norms_and_head_leave_the_rest_as_it_is():
    model = har_transformer(2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train_model(model, loader(32, 0), None, TrainConfig(epochs=1, parameters="norms_and_head"))
    changed = _changed(model, before)
    assert {
        "classifier.weight",
        "har_transformer.norm.weight",
        "har_transformer.layers.0.attention_norm.bias",
    } <= changed
    assert all("norm" in name or name.startswith("classifier") for name in changed)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_low_rank_updates_are_merged_and_the_model_is_what_it_was():
    pytest.importorskip("peft")
    model = har_transformer(2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train_model(model, loader(32, 0), None, TrainConfig(epochs=2, learning_rate=1e-2, parameters="lora"))
    assert model.state_dict().keys() == before.keys()
    assert all("lora" not in type(module).__module__ for module in model.modules())
    weight = "har_transformer.layers.0.attention.query.weight"
    assert torch.linalg.matrix_rank(model.state_dict()[weight] - before[weight], rtol=1e-3) <= 16
    assert weight in _changed(model, before)
    assert "har_transformer.embeddings.position_embeddings" not in _changed(model, before)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_model_peft_finds_nothing_in_is_refused():
    pytest.importorskip("peft")
    model = cifar_resnet()
    with pytest.raises(
        RecipeError, match=r"parameters: lora: peft finds nothing to update in a CifarResNet.*norms_and_head"
    ):
        TrainedParameters(model, "lora")
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_every_family_knows_its_norms_and_head():
    for name, tiny in TINY.items():
        model = tiny.make()
        before = [parameter.requires_grad for parameter in model.parameters()]
        trained = TrainedParameters(model, "norms_and_head")
        shares = [parameter.requires_grad for parameter in model.parameters()]
        assert 0 < sum(shares) < len(shares), name
        trained.restore()
        assert [parameter.requires_grad for parameter in model.parameters()] == before, name


@pytest.mark.parametrize("which", ["norms_and_head", "lora"])
def test_what_is_frozen_stays_as_it_is(which):
    if which == "lora":
        pytest.importorskip("peft")
    model = har_transformer(2)
    model.har_transformer.layers[0].requires_grad_(False)
    model.har_transformer.norm.requires_grad_(False)
    flags = [parameter.requires_grad for parameter in model.parameters()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train_model(model, loader(32, 0), None, TrainConfig(epochs=2, learning_rate=1e-2, parameters=which))
    changed = _changed(model, before)
    assert not any(name.startswith(("har_transformer.layers.0.", "har_transformer.norm.")) for name in changed)
    assert {"har_transformer.layers.1.attention_norm.weight", "classifier.weight"} <= changed
    assert ("har_transformer.layers.1.attention.query.weight" in changed) == (which == "lora")
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    model.requires_grad_(False)
    with pytest.raises(RecipeError, match=rf"parameters: {which}: all of these are frozen"):
        TrainedParameters(model, which)
    assert model.state_dict().keys() == before.keys(), "no update is left in it"
