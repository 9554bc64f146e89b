import pytest
import torch
from families import TINY, cifar_resnet, gpt2, har_resnet, har_transformer, llama, vit
from torch import nn

from har_prune import Family, WidthKind, find_blocks, find_widths, remove_units
from har_prune.blocks import families
from har_prune.blocks.example_inputs import example_inputs
from har_prune.errors import NotRemovableError


def test_what_cannot_go_is_refused_by_name():
    widths = find_widths(cifar_resnet())
    cases = {
        "cannot be left with 0 of 8 units": {0: range(8)},
        "has units 0-7; there is no unit 8": {0: [8]},
        "there is no unit -1": {0: [-1]},
        "width 8 does not exist: this model has widths 0-7": {8: [0]},
        "units are given by width, as a list": {0: 3},
        "there is no unit in the list": {0: []},
        "by width, e.g. ": [0, 1],
    }
    for said, units in cases.items():
        with pytest.raises(NotRemovableError, match=said):
            remove_units(widths, units)
    with pytest.raises(NotRemovableError, match=r"no width called 'chanels'.*Did you mean 'channels'\?"):
        find_widths(cifar_resnet(), ["chanels"])


def test_a_plugins_family_does_not_change_what_is_said(monkeypatch):
    monkeypatch.setitem(families._FAMILIES, "my_encoder", lambda config: Family("layers", "depth"))
    with pytest.raises(NotRemovableError, match="There are widths of bert"):
        find_widths(gpt2())
    assert find_widths(har_transformer(), "heads").units == {"heads": (4, 4, 4, 4)}


def test_one_number_for_all_blocks_means_as_many_from_each():
    with pytest.raises(NotRemovableError, match=r"one number of intermediate for all blocks.*widths 0-3"):
        remove_units(vit(), {0: [1], 1: [1], 2: [1], 3: [1, 2]})
    with pytest.raises(NotRemovableError, match="one number of intermediate"):
        remove_units(vit(), {0: [1]})


def test_heads_go_in_whole_groups_and_in_numbers_that_the_config_allows():
    model = llama(num_attention_heads=8, num_key_value_heads=4, hidden_size=32)
    heads = find_widths(model, ["heads"])
    assert {width.units for width in heads.widths} == {4}
    assert heads.widths[0].sizes == (1, 2, 4), "six heads do not divide a width of 32, and its config says so"
    with pytest.raises(NotRemovableError, match="cannot be left with 3 of 4 units: the config can state 1, 2, 4"):
        remove_units(heads, {index: [0] for index in range(4)})
    narrower = remove_units(heads, {0: [0, 1], 1: [0, 3], 2: [2, 3], 3: [1, 2]})
    config = narrower.config
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (4, 2, 4)


def test_grouped_convolutions_and_shared_weights_are_refused_by_name(monkeypatch):
    model = har_resnet()
    block = find_blocks(model).blocks[1].module
    block.conv2 = nn.Conv1d(8, 8, 5, padding=2, groups=2, bias=False)
    width = find_widths(model).widths[1]
    with pytest.raises(NotRemovableError, match="conv2 is a grouped convolution"):
        remove_units(model, {1: [0]})
    assert width.index not in find_widths(model).narrowable

    shared = har_transformer()
    layers = shared.har_transformer.layers
    layers[2].feed_forward = layers[0].feed_forward
    found = find_widths(shared)
    assert [w.why_fixed for w in found.widths[:3]] == [
        f"blocks {[0, 2]} share its weights",
        None,
        found.widths[2].why_fixed,
    ]
    with pytest.raises(NotRemovableError, match=r"blocks \[0, 2\] share its weights"):
        remove_units(shared, {0: [0]})


def test_a_width_described_wrongly_is_noticed(monkeypatch):
    def described(kind):
        monkeypatch.setitem(
            families._FAMILIES, "vit", lambda config: Family("layers", "num_hidden_layers", widths=(kind,))
        )

    described(WidthKind("intermediate", ("mlp.fc3",), ("mlp.fc2",), ("intermediate_size",)))
    with pytest.raises(NotRemovableError, match=r"lies in 'mlp.fc3', and there is no such module"):
        find_widths(vit())
    described(WidthKind("intermediate", ("mlp.fc2",), ("mlp.fc1",), ("intermediate_size",)))  # the wrong way round
    with pytest.raises(NotRemovableError, match="cannot express a network without 1 of"):
        remove_units(vit(), {index: [0] for index in range(4)})


def test_masks_come_off_also_after_an_error():
    model = har_transformer()
    widths, inputs = find_widths(model), example_inputs(model)
    before = model(**inputs).logits
    with widths.masked({0: [0, 1], 5: [2]}):
        assert not torch.equal(model(**inputs).logits, before)
        with pytest.raises(ValueError, match="samples"), widths.masked({1: [3]}):
            model(input_values=inputs["input_values"][:, :1])
    assert torch.equal(model(**inputs).logits, before)


@pytest.mark.parametrize("name", ["har_transformer", "llama_tied", "cifar_resnet"])
def test_bf16_frozen_and_tied_weights_stay_what_they_are(name):
    model = TINY[name].make().to(torch.bfloat16)
    next(model.parameters()).requires_grad_(False)
    widths = find_widths(model)
    narrower = remove_units(model, {index: [1] for index in widths.together[0]})
    assert {parameter.dtype for parameter in narrower.parameters()} == {torch.bfloat16}
    assert not next(narrower.parameters()).requires_grad
    if "tied" in name:
        assert narrower.get_output_embeddings().weight is narrower.get_input_embeddings().weight


def test_what_copy_means():
    model = har_transformer()
    for copy in (True, False):
        narrower = remove_units(model, {0: [1]}, copy=copy)
        assert (narrower.classifier.weight.data_ptr() == model.classifier.weight.data_ptr()) == (not copy)
