import pytest
import torch
from families import TINY, cifar_resnet, har_transformer
from fresh import logits_in_fresh_process
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Wav2Vec2Config,
    Wav2Vec2ForSequenceClassification,
)

from har_prune import find_blocks, remove_blocks, save_pruned
from har_prune.blocks.inputs import example_inputs
from har_prune.blocks.rebuild import original_indices
from har_prune.errors import NotRemovableError, UndeclaredLayerListError
from har_prune.saving import auto_class_of


def _selections(removable, stages):
    """One block, two that are not neighbours, and all but one of every stage."""
    floor = [i for stage in stages for i in [j for j in stage if j in removable][: len(stage) - 1]]
    return [removable[:1], [removable[0], removable[-1]], floor]


@pytest.mark.parametrize("name", TINY)
def test_the_smaller_model_equals_the_original_with_the_blocks_bypassed(name):
    _, make, removable = TINY[name]
    model = make()
    stack, inputs = find_blocks(model), example_inputs(model, batch_size=3, seed=5)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    for selection in _selections(removable, stack.stages):
        smaller = remove_blocks(model, selection)
        with torch.no_grad(), stack.bypassed(selection):
            torch.testing.assert_close(smaller(**inputs).logits, model(**inputs).logits, rtol=1e-5, atol=1e-6)
        assert len(find_blocks(smaller)) == len(stack) - len(selection)
        assert smaller.num_parameters() < model.num_parameters()
        assert smaller.config.har_prune == {"original_depth": len(stack), "removed_blocks": sorted(selection)}
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items()), "the input is untouched"
    assert len(find_blocks(model)) == len(stack)


@pytest.mark.parametrize("name", ["har_transformer", "cifar_resnet_tensorflow", "resnet_basic", "vit", "bert"])
def test_a_saved_folder_loads_where_har_prune_is_not_importable(name, tmp_path):
    _, make, removable = TINY[name]
    smaller = remove_blocks(make(), removable[1:2])
    folder = save_pruned(smaller, tmp_path / "pruned")
    inputs = example_inputs(smaller, seed=3)
    own = hasattr(smaller.config, "auto_map")
    logits = logits_in_fresh_process(auto_class_of(smaller).__name__, folder, inputs, tmp_path, trust_remote_code=own)
    with torch.no_grad():
        torch.testing.assert_close(logits, smaller(**inputs).logits, rtol=1e-5, atol=1e-6)
    assert own or not list(folder.glob("*.py")), "a stock family stays stock"


def test_removing_twice_counts_in_the_original_network():
    model = remove_blocks(remove_blocks(har_transformer(6), [1]), [1, 3])
    assert model.config.har_prune == {"original_depth": 6, "removed_blocks": [1, 2, 4]}
    assert original_indices(model) == [0, 3, 5]


def test_the_callers_random_numbers_do_not_move():
    model = har_transformer()
    before = torch.get_rng_state()
    remove_blocks(model, [0])
    find_blocks(model)
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_are_copied_and_dtype_and_training_still_work():
    model = har_transformer().to(torch.bfloat16)
    smaller = remove_blocks(model, [1])
    assert smaller.dtype == torch.bfloat16
    with torch.no_grad():
        smaller.classifier.weight.zero_()
    assert model.classifier.weight.abs().sum() > 0
    smaller = remove_blocks(cifar_resnet(), [1]).train()
    smaller(**example_inputs(smaller), labels=torch.tensor([0, 1])).loss.backward()
    assert all(parameter.grad is not None for parameter in smaller.parameters())


@pytest.mark.parametrize(
    ("make", "depth"),
    [
        (lambda: LlamaForCausalLM(LlamaConfig(hidden_size=32, num_hidden_layers=4, num_attention_heads=4,
                                              intermediate_size=48, vocab_size=50)), 4),
        (lambda: Wav2Vec2ForSequenceClassification(Wav2Vec2Config(
            hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=48, conv_dim=(16, 16),
            conv_kernel=(10, 3), conv_stride=(5, 2), num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
            classifier_proj_size=8, num_feat_extract_layers=2)), 4),
        (lambda: GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=4, n_head=4, vocab_size=50, n_positions=32)), 4),
    ],
    ids=["llama", "wav2vec2", "gpt2"],
)  # fmt: skip
def test_a_family_nobody_wrote_down_is_probed_and_rebuilt(make, depth):
    model = make().eval()
    stack = find_blocks(model)
    assert stack.family is None
    assert stack.removable == list(range(depth))
    smaller, inputs = remove_blocks(model, [1]), example_inputs(model)
    with torch.no_grad(), stack.bypassed([1]):
        torch.testing.assert_close(smaller(**inputs).logits, model(**inputs).logits)


def test_a_removal_the_config_cannot_express_is_refused():
    config = GPT2Config(
        n_embd=32, n_layer=4, n_head=4, vocab_size=50, n_positions=32, scale_attn_by_inverse_layer_idx=True
    )
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():  # weights large enough for the scale to matter
        for parameter in model.parameters():
            parameter.mul_(4)
    with pytest.raises(NotRemovableError, match="depends on its position"):
        remove_blocks(model, [0])
    assert len(find_blocks(remove_blocks(model, [3]))) == 3, "the last block has none behind it"


def test_a_layer_list_nobody_declared_is_an_error():
    config = Qwen3Config(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=4, intermediate_size=48,
        head_dim=8, vocab_size=50,
    )  # fmt: skip
    with pytest.raises(UndeclaredLayerListError, match=r"config\.layer_types .* per_layer_fields"):
        remove_blocks(Qwen3ForCausalLM(config).eval(), [1])
