import pytest
import torch
from families import TINY, har_transformer, resnet_basic, swin
from torch import nn
from transformers import ConvBertConfig, PreTrainedConfig, PreTrainedModel

from har_prune import Family, find_blocks, register_family, remove_blocks, score_blocks
from har_prune.blocks.example_inputs import example_inputs
from har_prune.blocks.families import registered_families
from har_prune.blocks.probe import probe_containers
from har_prune.errors import NotAModelError, NotRemovableError, UnknownFamilyError


@pytest.mark.parametrize("name", TINY)
def test_the_probe_finds_what_the_family_declares(name):
    _, make, removable = TINY[name]
    stack = find_blocks(make())
    assert stack.removable == removable
    probed = {
        f"{container.name}.{position}"
        for container in probe_containers(stack.model)
        for position, reason in enumerate(container.why_fixed)
        if reason is None
    }
    assert probed == {block.name for block in stack.blocks if block.why_fixed is None}


@pytest.mark.parametrize("name", TINY)
def test_a_bypassed_block_is_the_identity(name):
    stack = find_blocks(TINY[name].make())
    index = stack.removable[0]
    seen = {}
    handle = stack.blocks[index].module.register_forward_hook(
        lambda module, args, kwargs, output: seen.update(
            given=next(v for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor)), returned=output
        ),
        with_kwargs=True,
    )
    inputs = example_inputs(stack.model)
    with torch.no_grad():
        before = stack.model(**inputs)[0]
        with stack.bypassed(stack.removal_group(index)):
            bypassed = stack.model(**inputs)[0]
        returned = seen["returned"][0] if isinstance(seen["returned"], tuple) else seen["returned"]
        assert torch.equal(returned, seen["given"])
        handle.remove()
        assert not torch.equal(before, bypassed)
        assert torch.equal(stack.model(**inputs)[0], before), "leaving the context brings the block back"


def test_the_blocks_come_back_after_an_error():
    model = har_transformer()
    with pytest.raises(RuntimeError, match="inside"), find_blocks(model).bypassed([1]):
        raise RuntimeError("inside")
    assert all("forward" not in block.module.__dict__ for block in find_blocks(model).blocks)


def test_removing_a_block_without_a_branch_changes_nothing():
    model = har_transformer()
    layer = model.har_transformer.layers[2]
    with torch.no_grad():
        for linear in (layer.attention.output, layer.feed_forward[2]):
            linear.weight.zero_()
            linear.bias.zero_()
        inputs = example_inputs(model)
        with find_blocks(model).bypassed([2]):
            bypassed = model(**inputs).logits
        assert torch.equal(model(**inputs).logits, bypassed)


def test_a_fixed_block_says_why_and_what_is_allowed():
    stack = find_blocks(resnet_basic())
    with pytest.raises(NotRemovableError, match=r"block 2 .* changes the width.*\n.*stage: 3, 4"):
        stack.check_removable([2])
    assert stack.check_removable([3, 4]) == [3, 4], "the advice of the message works"
    with pytest.raises(NotRemovableError, match="blocks 0-6"):
        stack.check_removable([7])
    with pytest.raises(NotRemovableError, match="without a block"):
        stack.check_removable([0, 1])


class _PlainConfig(PreTrainedConfig):
    model_type = "vitt"


class _PlainModel(PreTrainedModel):
    config_class = _PlainConfig
    base_model_prefix = "plain"
    main_input_name = "input_ids"

    def __init__(self, config):
        super().__init__(config)
        self.layers = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 4))
        self.post_init()

    def forward(self, input_ids):
        return (self.layers(input_ids),)


def test_a_model_without_residual_blocks_is_refused_with_the_nearest_family():
    config = _PlainConfig()
    config.vocab_size = 9
    with pytest.raises(UnknownFamilyError, match=r"model_type='vitt' .*bert.*Did you mean 'vit'\?"):
        find_blocks(_PlainModel(config))


@pytest.mark.parametrize(
    "wrapped", [None, nn.Linear(2, 2), nn.DataParallel(har_transformer(2)), torch.compile(har_transformer(2))]
)
def test_what_is_no_model_of_transformers_is_said_to_be_none(wrapped):
    batch = example_inputs(har_transformer(2))
    for call in (find_blocks, lambda model: score_blocks(model, [batch]), lambda model: remove_blocks(model, [1])):
        with pytest.raises(NotAModelError, match=r"give a PreTrainedModel.*\.module.*\._orig_mod"):
            call(wrapped)


def test_a_family_cannot_be_registered_twice():
    with pytest.raises(ValueError, match="has a family already"):
        register_family("vit")(lambda config: Family("layers", "num_hidden_layers"))
    assert ConvBertConfig.model_type not in registered_families()


def test_the_former_name_of_a_removal_group_still_answers():
    stack = find_blocks(swin())
    with pytest.warns(DeprecationWarning, match="unit is now removal_group"):
        assert stack.unit(0) == stack.removal_group(0) == [0, 1]
