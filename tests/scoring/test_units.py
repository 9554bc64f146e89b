"""Importance of units against formulas that do not use the code under test."""

import pytest
import torch
from families import TOKENS, WIDTHS, cifar_resnet, classifier, har_transformer, llama
from torch.nn.functional import cross_entropy
from transformers import BertForSequenceClassification

from har_prune import find_blocks, find_widths, register_unit_criterion, score_blocks, score_units
from har_prune.blocks.example_inputs import example_inputs
from har_prune.errors import DataError, DegenerateFeaturesError, UnknownCriterionError
from har_prune.scoring.similarity import similarities


def _batches(model, count=3, size=6):
    generator = torch.Generator().manual_seed(0)
    return [
        {**example_inputs(model, size, seed=seed), "labels": torch.randint(3, (size,), generator=generator)}
        for seed in range(count)
    ]


def test_l1_norm_is_the_mean_absolute_weight_of_what_makes_a_unit():
    model = cifar_resnet()
    scores = score_units(find_widths(model), ())
    filters = find_blocks(model).blocks[4].module.conv1.weight.double()
    torch.testing.assert_close(scores[4], filters.abs().mean((1, 2, 3)))
    decoder = llama()
    heads = score_units(find_widths(decoder, ["heads"]), ())[1]
    attention = decoder.model.layers[1].self_attn
    for group in range(2):  # two query heads of 8 with one key and one value head
        rows = [attention.q_proj.weight[16 * group : 16 * group + 16]]
        rows += [layer.weight[8 * group : 8 * group + 8] for layer in (attention.k_proj, attention.v_proj)]
        torch.testing.assert_close(heads[group], torch.cat(rows).double().abs().mean())


@torch.no_grad()
def test_activation_is_the_mean_magnitude_of_what_a_unit_hands_on():
    model = har_transformer()
    batches, scores = _batches(model), score_units(find_widths(model), _batches(model), "activation")
    layer = model.har_transformer.layers[2]
    kept = []
    layer.feed_forward[1].register_forward_hook(lambda module, args, output: kept.append(output))
    layer.attention.output.register_forward_pre_hook(lambda module, args: kept.append(args[0]))
    for batch in batches:
        model(input_values=batch["input_values"])
    torch.testing.assert_close(scores[2], torch.cat(kept[1::2]).double().abs().mean((0, 1)))
    heads = torch.cat(kept[::2]).double().abs().unflatten(-1, (4, 8)).mean((0, 1, 3))
    torch.testing.assert_close(scores[4 + 2], heads)


@torch.no_grad()
def test_padding_counts_for_nothing():
    model = classifier(BertForSequenceClassification, num_hidden_layers=2, **WIDTHS, **TOKENS)
    widths, tokens = find_widths(model), torch.randint(3, 50, (8, 6))
    mask = torch.ones_like(tokens)
    padded = {
        "input_ids": torch.nn.functional.pad(tokens, (0, 20)),
        "attention_mask": torch.nn.functional.pad(mask, (0, 20)),
    }
    short, long = (
        score_units(widths, [batch], "activation") for batch in ({"input_ids": tokens, "attention_mask": mask}, padded)
    )
    for one, other in zip(short, long, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_taylor_is_the_slope_of_the_loss_when_a_unit_is_scaled_down():
    model = cifar_resnet().double()
    batches = [{**batch, "pixel_values": batch["pixel_values"].double()} for batch in _batches(model)]
    scores = score_units(find_widths(model), batches, "taylor")
    block, unit, found = find_blocks(model).blocks[3].module, 5, []
    scale = torch.ones(12, dtype=torch.float64)

    def scaled(module, args):
        return (args[0] * scale[:, None, None],)

    handle = block.conv2.register_forward_pre_hook(scaled)
    for batch in batches:
        for image, label in zip(batch["pixel_values"], batch["labels"], strict=True):
            losses = []
            for step in (1e-5, -1e-5):
                scale[unit] = 1 + step
                with torch.no_grad():
                    losses.append(cross_entropy(model(pixel_values=image[None]).logits, label[None]).item())
            found.append(abs(losses[0] - losses[1]) / 2e-5)
    handle.remove()
    assert scores[3][unit].item() == pytest.approx(sum(found) / len(found), rel=1e-5)
    assert all(parameter.grad is None for parameter in model.parameters())
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    frozen = score_units(find_widths(model), batches, "taylor")
    torch.testing.assert_close(frozen[3], scores[3])


def test_random_follows_from_the_seed():
    widths = find_widths(har_transformer())
    first, again, other = (score_units(widths, (), "random", seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_bad_input_says_what_is_wrong():
    model = har_transformer()
    widths = find_widths(model)
    with pytest.raises(UnknownCriterionError, match=r"'l1norm' \(known: activation, l1_norm.*Did you mean 'l1_norm'"):
        score_units(widths, (), "l1norm")
    with pytest.raises(DataError, match="needs a classifier's labels"):
        score_units(widths, [example_inputs(model)], "taylor")
    with pytest.raises(DataError, match="no calibration batches"):
        score_units(widths, [], "activation")
    with torch.no_grad():
        model.har_transformer.layers[1].feed_forward[0].weight[3] = float("nan")
    with pytest.raises(DegenerateFeaturesError, match=r"'har_transformer.layers.1 intermediate' have no score"):
        score_units(widths, ())
    with pytest.raises(TypeError, match="has no of_values"):
        register_unit_criterion("half")(type("Half", (), {"needs": "values"}))
    with pytest.raises(TypeError, match="needs = None"):
        register_unit_criterion("none")(type("Nothing", (), {}))
    with pytest.raises(ValueError, match="registered already"):
        register_unit_criterion("taylor")(type("Taylor", (), {"needs": "nothing"}))


@pytest.mark.parametrize("representation", [None, "har_transformer.layers.0"])
def test_similarity_of_a_network_without_a_block_is_what_scoring_finds(representation):
    model = har_transformer()
    stack, batches = find_blocks(model), _batches(model)
    widths = find_widths(stack)
    scores = score_blocks(stack, batches, representation=representation, candidates=[0, 2])
    changes = {
        "0": lambda: stack.bypassed([0]),
        "2": lambda: stack.bypassed([2]),
        "units": lambda: widths.masked({0: [1, 2]}),
    }
    found = similarities(model, batches, changes, representation=representation)
    assert [1 - found["0"], 1 - found["2"]] == pytest.approx([score.importance for score in scores], abs=1e-6)
    assert 0 < found["units"] < 1
    other = similarities(model, batches, changes, reference=har_transformer(), representation=representation)
    assert other["units"] < found["units"]
    with pytest.raises(DataError, match="no calibration batches"):
        similarities(model, [], changes)
