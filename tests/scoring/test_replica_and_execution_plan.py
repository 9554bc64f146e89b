import pytest
import torch
from accelerate import cpu_offload, dispatch_model
from families import TINY, cifar_resnet, har_transformer, vit

from har_prune import ExecutionPlan, ScoringConfig, score_blocks
from har_prune.blocks.example_inputs import example_inputs
from har_prune.runtime.replica import fold_batch_norm, replica
from har_prune.scoring.execution_plan import choose_execution_plan


def _trained_norms(model):
    """Batch norms that do something, as after training."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for value, low in ((module.running_mean, -1.0), (module.bias, -1.0), (module.running_var, 0.5)):
                torch.nn.init.uniform_(value, low, 1.5)
    return model


def _batches(model, sizes=(16, 16, 5)):
    return [example_inputs(model, batch_size=size, seed=seed) for seed, size in enumerate(sizes)]


@pytest.mark.parametrize("make", [cifar_resnet, TINY["resnet_bottleneck"].make])
def test_folding_removes_every_batch_norm_and_changes_nothing(make):
    model = _trained_norms(make()).double()
    inputs = example_inputs(model, batch_size=4)
    twin = replica(model)
    with torch.no_grad():
        before = model(**inputs).logits
        fold_batch_norm(twin, inputs)
        torch.testing.assert_close(twin(**inputs).logits, before, rtol=1e-10, atol=1e-12)
        assert torch.equal(model(**inputs).logits, before), "the model itself is not folded"
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in twin.modules())


def test_a_normalisation_that_cannot_be_folded_stays():
    model = _trained_norms(cifar_resnet())
    convolution = model.cifar_resnet.encoder.stages[0].layers[0].conv1
    # Somebody else reads the convolution as well, so folding would change the result.
    norm = model.cifar_resnet.encoder.stages[0].layers[0].norm1
    norm.register_forward_hook(lambda module, args, output: output + args[0])
    twin = replica(model)
    with torch.no_grad():
        fold_batch_norm(twin, example_inputs(model, batch_size=2))
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in twin.modules())
    assert twin.cifar_resnet.encoder.stages[0].layers[0].conv1.weight is convolution.weight


@pytest.mark.parametrize("name", ["cifar_resnet", "har_transformer", "vit"])
@pytest.mark.parametrize(
    "plan",
    [{"micro_batch": 3}, {"micro_batch": 7, "workers": 2}, {"micro_batch": 64, "channels_last": True}],
)
def test_every_execution_plan_gives_the_same_scores(name, plan):
    model = TINY[name].make().double()
    usual, threads = score_blocks(model, _batches(model)), torch.get_num_threads()
    config = ScoringConfig(execution_plan=ExecutionPlan(**plan))
    assert [s.importance for s in score_blocks(model, _batches(model), config=config)] == pytest.approx(
        [s.importance for s in usual], abs=1e-9
    )
    assert torch.get_num_threads() == threads, "workers set their own, and put back what was set"


def test_the_plan_is_the_fastest_of_those_tried():
    tried, now = [], [0.0]

    def run(plan, batch):
        tried.append(plan)
        now[0] += 1.0 + 4.0 * (plan.micro_batch != 32) + 4.0 * plan.channels_last + 4.0 * (plan.workers > 1)

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        batch = {"pixel_values": torch.zeros(64, 3, 4, 4)}
        chosen = choose_execution_plan(run, batch, torch.device("cpu"), clock=lambda: now[0])
    finally:
        torch.set_num_threads(threads)
    assert (chosen.micro_batch, chosen.channels_last, chosen.workers) == (32, False, 1)
    assert {plan.micro_batch for plan in tried} == {4, 8, 16, 32}
    assert {plan.workers for plan in tried} == {1, 2}


def test_bf16_is_close_and_says_so():
    model = har_transformer()
    exact = score_blocks(model, _batches(model))
    rough = score_blocks(model, _batches(model), config=ScoringConfig(precision="bf16"))
    assert {score.precision for score in rough} == {"bf16"}
    assert [s.importance for s in rough] == pytest.approx([s.importance for s in exact], abs=0.02)
    assert [s.importance for s in rough] != [s.importance for s in exact]


def test_an_offloaded_model_is_scored_where_it_is():
    model = vit()
    batches = _batches(model)
    names = ["cka", "block_influence", "l1_norm"]
    expected = score_blocks(model, batches, criterion=names).by_criterion
    cpu_offload(model, execution_device=torch.device("cpu"))
    model.hf_device_map = {"": "cpu"}
    assert next(model.parameters()).device.type == "meta"
    scores = score_blocks(model, batches, criterion=names).by_criterion
    for name in names:
        assert [s.importance for s in scores[name]] == pytest.approx([s.importance for s in expected[name]], abs=1e-6)
    assert next(model.parameters()).device.type == "meta"


def test_an_offloaded_reference_with_batch_normalisation_is_used_where_it_is():
    model, reference = cifar_resnet(), cifar_resnet()
    batches = _batches(model)
    expected = score_blocks(model, batches, reference=reference)
    cpu_offload(reference, execution_device=torch.device("cpu"))
    reference.hf_device_map = {"": "cpu"}
    found = score_blocks(model, batches, reference=reference)
    assert [s.importance for s in found] == pytest.approx([s.importance for s in expected], abs=1e-6)


def test_a_device_map_with_blocks_on_disk(tmp_path):
    model = vit()
    batches = _batches(model)
    expected = score_blocks(model, batches)
    device_map = {"vit.embeddings": "cpu", "vit.layernorm": "cpu", "classifier": "cpu", "vit.layers.0": "cpu",
                  "vit.layers.1": "disk", "vit.layers.2": "disk", "vit.layers.3": "cpu"}  # fmt: skip
    placed = dispatch_model(model, device_map, main_device="cpu", offload_dir=tmp_path, force_hooks=True)
    scores = score_blocks(placed, batches)
    assert [s.importance for s in scores] == pytest.approx([s.importance for s in expected], abs=1e-6)
