"""What is replayed from a CUDA graph is what the network computes; on a CPU nothing is recorded."""

import os

import pytest
import torch
from accelerate import Accelerator
from families import CLOSE, cifar_resnet, har_transformer
from pydantic import ValidationError
from tiny_data import loader

from har_prune import DistillConfig, HealConfig, Teacher, TrainConfig, train_model
from har_prune.runtime.batches import inputs_of
from har_prune.runtime.devices import exact_float32
from har_prune.runtime.processes import new_accelerator
from har_prune.training.logits import Logits

ON_GPU = os.environ.get("HAR_PRUNE_TEST_DEVICE", "cpu") != "cpu"
DEVICE = os.environ.get("HAR_PRUNE_TEST_DEVICE", "cpu")


def _networks(make):
    torch.manual_seed(0)
    one, other = make().to(DEVICE).train(), make().to(DEVICE).train()
    other.load_state_dict(one.state_dict())
    return one, other


def _images(count, seed):
    generator = torch.Generator().manual_seed(seed)
    return {"pixel_values": torch.randn(count, 3, 32, 32, generator=generator).to(DEVICE)}


def _with_dropout(model, probability):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = probability
        if hasattr(module, "dropout_prob"):
            module.dropout_prob = probability
    return model


@pytest.mark.device
def test_a_replay_gives_the_logits_gradients_and_statistics_of_the_network_as_it_is_then():
    plain, replayed = _networks(cifar_resnet)
    accelerator = new_accelerator()
    usual, graph = Logits(plain, accelerator), Logits(replayed, accelerator, graph=True)
    assert graph.graph == ON_GPU
    with exact_float32(True):
        for seed, count in enumerate((8, 8, 3, 8)):  # the third has another shape
            inputs = _images(count, seed)
            for logits, network in ((usual, plain), (graph, replayed)):
                logits.of(inputs).square().sum().backward()
                with torch.no_grad():
                    for parameter in network.parameters():
                        parameter.sub_(parameter.grad, alpha=1e-4)
                network.zero_grad()
            for name, value in plain.state_dict().items():
                torch.testing.assert_close(replayed.state_dict()[name], value, **CLOSE)


@pytest.mark.device
def test_dropout_of_a_replay_follows_the_seed():
    network = _with_dropout(har_transformer(2), 0.5)
    logits = Logits(network.to(DEVICE).train(), new_accelerator(), graph=True)
    inputs = {name: value.to(DEVICE) for name, value in inputs_of(next(iter(loader(8)))).items()}
    logits.of(inputs)
    found = []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        found.append(logits.of(inputs).detach().clone())
    assert torch.equal(found[0], found[2])
    assert not torch.allclose(found[0], found[1])


@pytest.mark.device
def test_a_distilled_training_from_graphs_ends_where_the_usual_one_does():
    ends = []
    for graphs in (False, True):
        torch.manual_seed(0)
        student, taught = _with_dropout(har_transformer(2), 0), har_transformer(3)
        config = TrainConfig(epochs=2, learning_rate=1e-3, keep="average", cuda_graphs=graphs)
        accelerator = new_accelerator(mixed_precision="no")
        with exact_float32(True):
            train_model(student, loader(32, 1), None, config, teacher=Teacher(taught, DistillConfig()), seed=1,
                        accelerator=accelerator)  # fmt: skip
        ends.append({name: value.cpu() for name, value in student.state_dict().items()})
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=1e-3, atol=1e-4)


def test_a_cpu_records_nothing():
    logits = Logits(cifar_resnet().train(), Accelerator(cpu=True), graph=True)
    assert not logits.graph


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (TrainConfig, {"layer_drop": 0.1}),
        (TrainConfig, {"accumulation": 2}),
        (HealConfig, {"distill": {"hidden": 0.1}}),
    ],
)
def test_work_that_changes_from_step_to_step_is_refused(kind, fields):
    with pytest.raises(ValidationError, match="cuda_graphs"):
        kind(epochs=1, cuda_graphs=True, **fields)
