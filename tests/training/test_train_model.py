import math
from copy import deepcopy
from functools import partial

import pytest
import torch
from accelerate import Accelerator
from families import TINY, cifar_resnet, har_resnet, har_transformer
from pydantic import ValidationError
from tiny_data import loader, windows
from torch.utils.data import DataLoader, Sampler

from har_prune import DistillConfig, HealConfig, Teacher, TrainConfig, evaluate_model, find_blocks, train_model
from har_prune.errors import DivergedError
from har_prune.runtime.tracker import JsonLinesTracker
from har_prune.training.step import learning_rate_factor


def test_learns_and_keeps_the_epoch_that_validated_best():
    model = har_transformer(2)
    validation = loader(48, 2)
    result = train_model(model, loader(96, 0, shuffle=True), validation, TrainConfig(epochs=12, learning_rate=3e-3))
    assert evaluate_model(model, loader(48, 3)).accuracy > 0.9
    assert evaluate_model(model, validation) == result.validation
    assert result.steps == 72
    assert result.samples_seen == 12 * 96
    assert not model.training


def test_the_same_seed_gives_the_same_bits_whatever_ran_before():
    fresh, train, states = har_transformer(2), loader(64, 0, shuffle=True), []
    for draws in (0, 5):
        model = deepcopy(fresh)
        torch.rand(draws)
        list(train)
        train_model(model, train, None, TrainConfig(epochs=2), seed=7)
        states.append(model.state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_a_loader_that_trained_has_its_own_generator_again():
    """It may calibrate as well, by a seed of somebody else's."""
    train = loader(64, 0, shuffle=True)
    torch.manual_seed(0)
    before = [batch["labels"] for batch in train]
    train_model(har_transformer(2), train, None, TrainConfig(epochs=1), seed=7)
    torch.manual_seed(0)
    assert all(map(torch.equal, before, [batch["labels"] for batch in train]))


class _OfEpochs(Sampler):
    """As torch's DistributedSampler: another order in each epoch, whose number it has to be told."""

    epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return 8

    def __iter__(self):
        self.told.append(self.epoch)
        return iter(torch.randperm(8, generator=torch.Generator().manual_seed(self.epoch)).tolist())


def test_a_sampler_is_told_the_epoch():
    sampler = _OfEpochs()
    sampler.told = []
    train = DataLoader(loader(8, 0).dataset, batch_size=4, sampler=sampler)
    train_model(har_transformer(2), train, None, TrainConfig(epochs=2.5, keep="last"))
    assert sampler.told == [0, 1, 2]


@pytest.mark.parametrize("make", [partial(har_transformer, 2), har_resnet], ids=["HAR Transformer", "HAR ResNet"])
def test_half_precision_is_trained_on_batches_of_half_precision(make):
    """In float32: what comes out is what the float32 network of these weights becomes, rounded."""
    torch.manual_seed(0)
    half = make().bfloat16()
    single = deepcopy(half).float()
    rows = [row | {"input_values": row["input_values"].bfloat16()} for row in windows(32, 0)]
    for model in (half, single):
        train_model(model, DataLoader(rows, batch_size=16), None, TrainConfig(epochs=1))
    assert half.dtype == torch.bfloat16
    for left, right in zip(half.state_dict().values(), single.state_dict().values(), strict=True):
        torch.testing.assert_close(left, right.to(left.dtype))


@pytest.mark.parametrize("keep", ["best", "last", "average"])
def test_half_precision_is_validated_on_batches_of_half_precision(keep):
    rows = [row | {"input_values": row["input_values"].bfloat16()} for row in windows(32, 0)]
    model, batches = har_resnet().bfloat16(), DataLoader(rows, batch_size=16)
    found = train_model(model, batches, batches, TrainConfig(epochs=1, keep=keep))
    assert found.validation.samples == 32
    assert model.dtype == torch.bfloat16


def test_half_an_epoch_and_a_batch_behind_it():
    model = har_transformer(2)
    assert train_model(model, loader(64, 0), None, TrainConfig(epochs=0.5)).steps == 2
    assert train_model(model, loader(64, 0), None, TrainConfig(epochs=1.25)).steps == 5


def test_a_copy_of_a_trained_model_is_a_model_of_its_own():
    model = har_transformer(2)
    train_model(model, loader(32, 0), None, TrainConfig(epochs=1), accelerator=Accelerator(cpu=True))
    copy = deepcopy(model)
    batch = next(iter(loader(16, 3)))
    before = copy(batch["input_values"]).logits
    with torch.no_grad():
        model.classifier.weight.zero_()
    assert torch.equal(copy(batch["input_values"]).logits, before)


def test_autocast_on_a_resnet_leaves_float32_contiguous_weights():
    model = cifar_resnet()
    batches = [{"pixel_values": torch.rand(3, 16, 16), "labels": torch.tensor(number % 3)} for number in range(24)]
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    train_model(model, DataLoader(batches, batch_size=8), None, TrainConfig(epochs=1, optimizer="sgd"),
                accelerator=accelerator)  # fmt: skip
    assert all(parameter.dtype == torch.float32 and parameter.is_contiguous() for parameter in model.parameters())
    assert "forward" not in model.__dict__


def test_distillation_pulls_the_student_to_the_teacher():
    teacher, student = har_transformer(2), har_transformer(1)
    train_model(teacher, loader(96, 0, shuffle=True), None, TrainConfig(epochs=10, learning_rate=3e-3))
    batch = next(iter(loader(48, 3)))

    @torch.no_grad()
    def distance():
        given, wanted = (m(batch["input_values"]).logits.log_softmax(1) for m in (student, teacher))
        return torch.nn.functional.kl_div(given, wanted, log_target=True, reduction="batchmean").item()

    before = distance()
    config = TrainConfig(epochs=10, learning_rate=3e-3)
    train_model(student, loader(96, 0), None, config, teacher=Teacher(teacher, DistillConfig(weight=1.0)))
    assert distance() < 0.3 * before


def test_hidden_states_are_distilled_where_a_model_leaves_blocks_out_itself():
    torch.manual_seed(0)
    student = TINY["wav2vec2"].make()
    student.config.layerdrop = 0.5
    teacher = find_blocks(TINY["wav2vec2"].make())
    sounds = [{"input_values": torch.randn(1600), "labels": n % 2} for n in range(24)]
    config = TrainConfig(epochs=3, learning_rate=1e-4)
    found = train_model(
        find_blocks(student), DataLoader(sounds, batch_size=4), None, config,
        teacher=Teacher(teacher, DistillConfig(hidden=1.0)),
    )  # fmt: skip
    assert found.samples_seen == 72


def test_learning_rates():
    cosine = learning_rate_factor(TrainConfig(epochs=1, warmup=0.1), 100)
    assert [round(cosine(step), 3) for step in (0, 9, 10, 55, 100)] == [0.091, 0.909, 1.0, 0.5, 0.0]
    step = learning_rate_factor(TrainConfig(epochs=1, warmup=0, schedule="step"), 200)
    assert [step(number) for number in (0, 99, 100, 149, 150)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    constant = learning_rate_factor(TrainConfig(epochs=1, warmup=0, schedule="constant"), 9)
    assert {constant(number) for number in range(9)} == {1.0}


def test_a_diverging_run_stops_with_advice():
    with pytest.raises(DivergedError, match="lower learning_rate"):
        train_model(
            har_transformer(2), loader(32, 0), None,
            TrainConfig(epochs=3, learning_rate=1e30, optimizer="sgd", max_grad_norm=None, warmup=0),
        )  # fmt: skip


def test_metrics_go_to_trackers(tmp_path):
    accelerator = Accelerator(cpu=True, log_with=[JsonLinesTracker(tmp_path / "metrics.jsonl")])
    accelerator.init_trackers("test")
    train_model(har_transformer(1), loader(32, 0), loader(32, 1), TrainConfig(epochs=2), accelerator=accelerator)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 2
    assert '"train/validation_accuracy"' in lines[0]


def test_settings_have_ranges():
    with pytest.raises(ValidationError):
        TrainConfig(epochs=0)
    with pytest.raises(ValidationError):
        TrainConfig(epochs=1, learning_rat=1)
    assert HealConfig(epochs=1, distill=True).distill == DistillConfig()
    assert HealConfig(epochs=1, distill=False).distill is None
    assert math.isclose(DistillConfig().weight, 0.7)
