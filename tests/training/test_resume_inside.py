"""SIGKILL inside a training, start again, compare with one nobody interrupted: bit-equal weights."""

import signal

import pytest
import torch
from accelerate import Accelerator
from families import cifar_resnet, har_resnet, har_transformer, llama
from killed import die_at_call, in_new_process
from safetensors.torch import load_file, save_file
from tiny_data import loader, texts, windows
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from har_prune import DistillConfig, Teacher, TrainConfig, find_blocks, train_model
from har_prune.data.batches import SensorInputs, make_loader
from har_prune.data.load import LabelledData
from har_prune.errors import DataError, DivergedError, OutputFolderError
from har_prune.models.har_transformer import HarFeatureExtractor
from har_prune.training.checkpoint import TrainingCheckpoint

CASES = {
    # every kind of state a training has: moments, momentum, best weights, a mean of weights, dropout, augmentation
    "best": {"keep": "best", "learning_rate": 3e-3},
    "average": {"keep": "average", "average_last": 0.6, "optimizer": "sgd", "learning_rate": 0.05},
    "layer_drop": {"keep": "last", "layer_drop": 0.4, "schedule": "linear"},
}
EPOCHS, BATCHES = 3, 4


def _windows():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(64, 32, 6, generator=generator).numpy()
    names = ["a", "b", "c"]
    labels = torch.arange(64).remainder(3).numpy()
    return LabelledData("sensor", values, labels, names, labels.astype(str), sensor={"sampling_rate_hz": 32})


def _train(case, out):
    torch.manual_seed(0)
    model, taught = har_transformer(3), har_transformer(3)
    inputs = SensorInputs(HarFeatureExtractor(num_channels=6, window_size=32, sampling_rate_hz=32), 32)
    train = make_loader(_windows(), range(64), inputs, 16, augment=["rotation", "jitter"])
    teacher = Teacher(find_blocks(taught), DistillConfig(hidden=0.1), [har_transformer(2)])
    config = TrainConfig(epochs=EPOCHS, checkpoint_minutes=0, **CASES[case])
    train_model(
        find_blocks(model), train, loader(32, 1), config, seed=3, teacher=teacher, checkpoint=out / "training.pt",
        accelerator=Accelerator(cpu=True),
    )  # fmt: skip
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, out / "weights.safetensors")


def _victim(case, out, module, name, number):
    die_at_call(module, name, number)
    _train(case, out)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    found = {}
    for case in CASES:
        out = tmp_path_factory.mktemp(case)
        assert in_new_process(_train, case, out) == 0
        found[case] = load_file(out / "weights.safetensors")
    return found


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("module", "name", "number"),
    [
        ("har_prune.training.loop", "_seed", 3),  # in the first epoch
        ("torch", "save", 4),  # at the end of the first epoch, while a checkpoint is being written
        ("har_prune.training.loop", "_seed", 10),  # in the last
    ],
)
def test_killed_and_started_again_the_weights_are_the_same(case, module, name, number, uninterrupted, tmp_path):
    assert in_new_process(_victim, case, tmp_path, module, name, number) == -signal.SIGKILL
    assert (tmp_path / "training.pt").exists()
    assert in_new_process(_train, case, tmp_path) == 0
    weights = load_file(tmp_path / "weights.safetensors")
    assert all(torch.equal(value, uninterrupted[case][name]) for name, value in weights.items())


def _saved(tmp_path, **fields):
    """A checkpoint of a training that ended."""
    torch.manual_seed(0)
    model = har_transformer(2)
    config = TrainConfig(**{"epochs": 1, "checkpoint_minutes": 0, **fields})
    return train_model(model, loader(32, 0), None, config, checkpoint=tmp_path / "training.pt")


def test_a_training_that_had_ended_does_nothing_more(tmp_path):
    first, again = _saved(tmp_path), _saved(tmp_path)
    assert (again.steps, again.samples_seen) == (first.steps, first.samples_seen)


def test_a_checkpoint_of_another_training_is_refused_and_kept(tmp_path):
    _saved(tmp_path)
    before = (tmp_path / "training.pt").read_bytes()
    with pytest.raises(OutputFolderError, match=r"is of another training \(settings: .*remove that file"):
        _saved(tmp_path, learning_rate=5e-4)
    value = torch.load(tmp_path / "training.pt")
    value["identity"]["processes"] = 2
    torch.save(value, tmp_path / "training.pt")
    with pytest.raises(OutputFolderError, match="processes: 2 there, 1 here"):
        _saved(tmp_path)
    (tmp_path / "training.pt").write_bytes(before[:500])
    with pytest.raises(OutputFolderError, match=r"is damaged .*starts from its beginning"):
        _saved(tmp_path)


def test_accumulation_computes_what_the_whole_batch_does():
    found = []
    for accumulation in (1, 4):
        torch.manual_seed(0)
        model = har_transformer(2, hidden_dropout_prob=0.0)
        train_model(model, loader(64, 0), None, TrainConfig(epochs=1, accumulation=accumulation))
        found.append(model.state_dict())
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-3, atol=1e-4)
    with pytest.raises(DataError, match="accumulation=3 does not divide a batch of 16 examples"):
        train_model(har_transformer(2), loader(64, 0), None, TrainConfig(epochs=1, accumulation=3))


@pytest.mark.parametrize("lengths", [[30, 3, 2, 9], [30, 1, 2, 9], [1, 1, 1, 1]], ids=["some", "one of none", "none"])
def test_every_token_counts_alike_however_a_batch_of_texts_is_parted(lengths):
    found = []
    for accumulation in (1, 2, 4):
        torch.manual_seed(0)
        model, original = llama(2), llama(2)
        config = TrainConfig(epochs=1, accumulation=accumulation, optimizer="sgd", momentum=0, max_grad_norm=None)
        train_model(model, texts(lengths, 0, 4), None, config, teacher=Teacher(original, DistillConfig()))
        found.append(model.state_dict())
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(value, found[2][name], rtol=1e-5, atol=1e-6)


def test_the_average_has_statistics_of_its_own():
    torch.manual_seed(0)
    model = cifar_resnet().train()
    images = [{"pixel_values": torch.randn(3, 16, 16), "labels": torch.tensor(i % 3)} for i in range(32)]
    train = DataLoader(images, batch_size=16, shuffle=True)
    config = TrainConfig(epochs=4, optimizer="sgd", learning_rate=0.1, keep="average", average_last=1.0)
    train_model(model, train, None, config)
    norm = model.cifar_resnet.embedder.normalization
    batches = torch.stack([image["pixel_values"] for image in images])
    seen = model.cifar_resnet.embedder.convolution(batches)
    torch.testing.assert_close(norm.running_mean, seen.mean(dim=(0, 2, 3)), rtol=1e-3, atol=1e-4)
    assert norm.momentum == 0.1


def test_windows_are_turned_in_float32_for_those_statistics_too():
    model = har_resnet()
    inputs = SensorInputs(HarFeatureExtractor(num_channels=6, window_size=32, sampling_rate_hz=32), 32)
    train = make_loader(_windows(), range(64), inputs, 16, augment=["rotation"])
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    train_model(model, train, None, TrainConfig(epochs=1, keep="average"), accelerator=accelerator)
    assert any(float(value.abs().max()) > 0 for name, value in model.named_buffers() if name.endswith("running_mean"))


def test_the_mean_of_the_last_weights_is_their_mean(monkeypatch):
    from har_prune.training import weights as module

    seen = []
    real = module.KeptWeights.step

    def step(self, number):
        real(self, number)
        seen.append({name: value.detach().clone() for name, value in self.model.named_parameters()})

    monkeypatch.setattr(module.KeptWeights, "step", step)
    model = har_transformer(1)
    train_model(model, loader(64, 0), None, TrainConfig(epochs=1, keep="average", average_last=0.5))
    last = seen[len(seen) // 2 :]
    for name, value in model.named_parameters():
        torch.testing.assert_close(value, torch.stack([weights[name] for weights in last]).mean(dim=0))


def test_a_batch_sampler_of_somebody_else_gives_the_same_batches(tmp_path, monkeypatch):
    examples, found = windows(48, 0), []
    for stops in (False, True):
        batches = BatchSampler(RandomSampler(examples), 8, True)
        torch.manual_seed(0)
        config, path = TrainConfig(epochs=3, checkpoint_minutes=0), tmp_path / f"{stops}.pt"
        if stops:
            with monkeypatch.context() as patch:
                patch.setattr("har_prune.training.loop._seed", _stopping_at(9))
                with pytest.raises(KeyboardInterrupt):
                    train_model(har_transformer(1), DataLoader(examples, batch_sampler=batches), None, config,
                                checkpoint=path)  # fmt: skip
            torch.manual_seed(0)
        model = har_transformer(1)
        torch.rand(1 + stops)  # what was drawn before must not matter
        train_model(model, DataLoader(examples, batch_sampler=batches), None, config, checkpoint=path)
        found.append(model.state_dict())
    assert all(torch.equal(value, found[1][key]) for key, value in found[0].items())


def _stopping_at(number):
    from har_prune.training import loop

    real = loop._seed

    def seed(own, step, accelerator):
        if step == number:
            raise KeyboardInterrupt
        real(own, step, accelerator)

    return seed


def test_a_loader_that_cannot_say_how_long_it_is_or_says_it_wrong_is_refused():
    class Stream(torch.utils.data.IterableDataset):
        def __init__(self, length):
            self.length = length

        def __iter__(self):
            return iter(windows(16, 0))

    class Measured(Stream):
        def __len__(self):
            return self.length

    with pytest.raises(DataError, match="has no length, and a schedule needs one"):
        train_model(har_transformer(1), DataLoader(Stream(0), batch_size=8), None, TrainConfig(epochs=1))
    with pytest.raises(DataError, match="has fewer batches than its length says"):
        train_model(har_transformer(1), DataLoader(Measured(80), batch_size=8), None, TrainConfig(epochs=1))


def test_an_error_leaves_the_network_as_it_came():
    model = har_transformer(2).to(torch.bfloat16)
    with pytest.raises(DataError, match=r"distill\.hidden compares blocks"):
        train_model(
            model, loader(32, 0), None, TrainConfig(epochs=1, parameters="norms_and_head"),
            teacher=Teacher(har_transformer(2), DistillConfig(hidden=1.0)),
        )  # fmt: skip
    assert all(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(DivergedError):
        train_model(
            model, loader(32, 0), None, TrainConfig(epochs=1, learning_rate=1e30, max_grad_norm=None, warmup=0)
        )
    assert (model.training, model.dtype, "forward" in model.__dict__) == (False, torch.bfloat16, False)


def test_a_rotary_table_keeps_its_precision():
    model = llama(2).to(torch.bfloat16)
    table = model.model.rotary_emb.inv_freq
    table.data = torch.linspace(0, 1, len(table)).exp()
    before = table.clone()
    tokens = [{"input_ids": torch.arange(8) + i, "labels": torch.arange(8) + i} for i in range(8)]
    train_model(model, DataLoader(tokens, batch_size=4), None, TrainConfig(epochs=1))
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32
    assert torch.equal(model.model.rotary_emb.inv_freq, before)
    assert model.dtype == torch.bfloat16


def test_a_network_with_nothing_to_leave_out_trains_with_layer_drop():
    result = train_model(har_transformer(1), loader(32, 0), None, TrainConfig(epochs=1, layer_drop=0.5))
    assert result.samples_seen == 32


def test_another_distillation_is_another_training(tmp_path):
    train, file = loader(32, 0), tmp_path / "one.training"
    teacher, config = find_blocks(har_transformer(3)), TrainConfig(epochs=2, checkpoint_minutes=0)
    train_model(
        har_transformer(2), train, None, config, teacher=Teacher(teacher, DistillConfig(weight=0.2)), checkpoint=file
    )
    torch.manual_seed(0)
    with pytest.raises(OutputFolderError, match="of another training"):
        train_model(
            har_transformer(2),
            train,
            None,
            config,
            teacher=Teacher(teacher, DistillConfig(weight=0.9)),
            checkpoint=file,
        )


def test_a_full_disk_is_one_message_and_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    file = tmp_path / "one.training"
    checkpoint = TrainingCheckpoint(file, {"seed": 0}, 0)
    checkpoint.save({"step": 1})

    def full(*_):
        raise RuntimeError("[enforce fail at inline_container.cc:672] unexpected pos")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputFolderError, match="is the disk full"):
        checkpoint.save({"step": 2})
    assert checkpoint.load() == {"step": 1}
    assert list(tmp_path.iterdir()) == [file]
