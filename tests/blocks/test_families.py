"""The shared suite: what holds for every family, on its tiny model."""

import pytest
import torch
from families import CLOSE, DECODERS, OURS, TINY
from fresh import logits_in_fresh_process

from har_prune import find_blocks, remove_blocks, save_pruned
from har_prune.blocks.equivalence import outputs_of
from har_prune.blocks.example_inputs import example_inputs
from har_prune.blocks.families import registered_families
from har_prune.blocks.rebuild import without_blocks
from har_prune.checkpoints.auto_class import auto_class_of
from har_prune.pruning.config import PruneSettings
from har_prune.pruning.plan import most_removals


def _selections(stack):
    """One block, two that are not neighbours, and all but the floor; with whatever has to go with them."""
    one = stack.removal_group(stack.removable[0])
    far = next(i for i in reversed(stack.removable) if i > one[-1] + 1)
    floor = most_removals(stack, PruneSettings(target={"blocks": 1}), set())
    return {"one": one, "two": [*one, *stack.removal_group(far)], "floor": floor}


def test_every_registered_family_has_a_tiny_model():
    assert {tiny.model_type for tiny in TINY.values()} == set(registered_families())


@pytest.mark.device
@pytest.mark.parametrize("name", TINY)
def test_the_smaller_model_equals_the_original_with_the_blocks_bypassed(name):
    model = TINY[name].make()
    stack, inputs = find_blocks(model), example_inputs(model, batch_size=3, seed=5)
    assert (model.config.model_type, stack.removable) == (TINY[name].model_type, TINY[name].removable)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    for selection in _selections(stack).values():
        smaller = remove_blocks(model, selection)
        with torch.no_grad(), stack.bypassed(selection):
            torch.testing.assert_close(smaller(**inputs)[0], model(**inputs)[0], rtol=1e-5, atol=1e-6)
        assert len(find_blocks(smaller)) == len(stack) - len(selection)
        assert smaller.num_parameters() < model.num_parameters()
        assert smaller.config.har_prune == {"original_depth": len(stack), "removed_blocks": sorted(selection)}
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items()), "the input is untouched"
    assert len(find_blocks(model)) == len(stack)


@pytest.mark.device
@pytest.mark.parametrize("name", TINY)
def test_surgery_returns_the_stack_that_would_be_found(name):
    stack = find_blocks(TINY[name].make())
    for selection in _selections(stack).values():
        smaller = without_blocks(stack, selection)
        found = find_blocks(smaller.model)
        for block, expected in zip(smaller.blocks, found.blocks, strict=True):
            assert vars(block) == vars(expected)
        assert smaller.removable == found.removable
        assert (smaller.config_path, smaller.config) == (found.config_path, found.config)
        assert smaller.original_indices == [i for i in range(len(stack)) if i not in selection]


@pytest.fixture(scope="module")
def reloaded(tmp_path_factory):
    """Outputs of every family's three smaller networks: here, and in one fresh process without har_prune."""
    jobs, here = {}, {}
    for name, tiny in TINY.items():
        model = tiny.make()
        for which, selection in _selections(find_blocks(model)).items():
            smaller = remove_blocks(model, selection)
            folder = save_pruned(smaller, tmp_path_factory.mktemp(name) / which)
            inputs = example_inputs(smaller, seed=3)
            jobs[f"{name} {which}"] = (auto_class_of(smaller).__name__, folder, inputs)
            here[f"{name} {which}"] = outputs_of(smaller, inputs)[0].cpu()
    return here, logits_in_fresh_process(jobs, tmp_path_factory.mktemp("fresh")), jobs


@pytest.mark.device
@pytest.mark.parametrize("name", TINY)
def test_a_saved_folder_loads_where_har_prune_is_not_importable(name, reloaded):
    here, fresh, jobs = reloaded
    for which in ("one", "two", "floor"):
        job = f"{name} {which}"
        torch.testing.assert_close(fresh[job], here[job], **CLOSE)
        own = TINY[name].model_type in (*OURS, "mobilenet_v2")
        assert bool(list(jobs[job][1].glob("*.py"))) == own, "a stock family stays stock"


@pytest.mark.device
@pytest.mark.parametrize("name", TINY)
def test_what_is_left_can_be_trained(name):
    model = TINY[name].make()
    stack = find_blocks(model)
    smaller = remove_blocks(model, _selections(stack)["two"]).train()
    with torch.no_grad():  # nothing random: a layer that drops blocks would leave some without a gradient
        for module in smaller.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    smaller.config.layerdrop = 0.0
    before = [parameter.clone() for parameter in smaller.parameters()]
    smaller(**example_inputs(smaller, batch_size=4))[0].square().mean().backward()
    blocks = find_blocks(smaller).blocks
    assert all(any(p.grad is not None for p in block.module.parameters()) for block in blocks)
    torch.optim.SGD(smaller.parameters(), lr=0.1).step()
    changed = [not torch.equal(old, new) for old, new in zip(before, smaller.parameters(), strict=True)]
    assert sum(changed) > len(changed) / 2


@pytest.mark.parametrize("name", DECODERS)
@torch.no_grad()
def test_a_decoder_generates_with_and_without_its_cache(name):
    model = TINY[name].make()
    smaller = remove_blocks(model, [1])
    tokens = example_inputs(smaller)["input_ids"]
    whole = smaller(input_ids=tokens, use_cache=False).logits
    first = smaller(input_ids=tokens[:, :7], use_cache=True)
    rest = smaller(input_ids=tokens[:, 7:], past_key_values=first.past_key_values, use_cache=True)
    torch.testing.assert_close(torch.cat([first.logits, rest.logits], dim=1), whole, rtol=1e-4, atol=1e-5)
    longer = smaller.generate(tokens, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert longer.shape == (2, tokens.shape[1] + 4)
    assert torch.equal(longer, smaller.generate(tokens, max_new_tokens=4, min_new_tokens=4, do_sample=False,
                                                use_cache=False))  # fmt: skip


@pytest.mark.parametrize("name", [name for name in TINY if "tied" in name or name in ("gpt2", "gemma3_text")])
def test_tied_weights_stay_tied(name, tmp_path):
    smaller = remove_blocks(TINY[name].make(), [1])
    loaded = type(smaller).from_pretrained(save_pruned(smaller, tmp_path / "tied"))
    for model in (smaller, loaded):
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


@pytest.mark.parametrize("name", ["llama", "vit", "cifar_resnet", "mobilenet_v2"])
def test_bf16_in_bf16_out(name, tmp_path):
    smaller = remove_blocks(TINY[name].make().to(torch.bfloat16), [1])
    folder = save_pruned(smaller, tmp_path / "bf16")
    loaded = auto_class_of(smaller).from_pretrained(folder)
    assert {p.dtype for p in [*smaller.parameters(), *loaded.parameters()]} == {torch.bfloat16}
