"""A folder is continued only with the data and the weights it was made with."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_data import loader

from har_prune import HealConfig, PruneConfig, prune
from har_prune.errors import DataError, OutputFolderError
from har_prune.models.har_transformer import HarTransformerConfig, HarTransformerForSequenceClassification


def _network(seed):
    torch.manual_seed(seed)
    config = HarTransformerConfig(
        num_channels=6, window_size=32, hidden_size=32, num_attention_heads=4, intermediate_size=48,
        num_hidden_layers=4, num_labels=3,
    )  # fmt: skip
    return HarTransformerForSequenceClassification(config)


def _prune(out, *, train=0, calibration=1, evaluate=2, distill=None, teachers=(), **more):
    return prune(
        _network(0),
        loader(64, train, shuffle=True),
        loader(32, calibration),
        loader(32, evaluate),
        PruneConfig(
            target={"blocks": 2}, calibration={"execution_plan": {"micro_batch": 32}},
            heal=HealConfig(epochs=1, distill=distill), evaluate={"latency": False}, output_dir=out,
        ),
        teachers=teachers, **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    out = tmp_path_factory.mktemp("ended") / "out"
    return out, _prune(out)


@pytest.fixture
def interrupted(ended, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(ended[0], out)
    shutil.rmtree(out / "iteration-002")
    (out / "history.json").unlink()
    return out


def test_the_same_data_continue_and_others_are_refused(ended, interrupted):
    for changed, name in (({"train": 5}, "train"), ({"calibration": 5}, "calibration"),
                          ({"evaluate": 5}, "evaluate validation")):  # fmt: skip
        with pytest.raises(
            OutputFolderError, match=rf"was made with other data: {name} differ\(s\).*former data back"
        ):
            _prune(interrupted, **changed)
    assert not (interrupted / "iteration-002").exists()
    again = _prune(interrupted)
    assert again.history.data_fingerprint == ended[1].history.data_fingerprint
    assert len(again.history.data_fingerprint) == 64
    assert json.loads((interrupted / "history.json").read_text())["data_fingerprint"] == again.history.data_fingerprint
    weights = [load_file(out / "iteration-002" / "model.safetensors") for out in (ended[0], interrupted)]
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    with pytest.raises(OutputFolderError, match="made with other data: calibration, evaluate validation differ"):
        _prune(interrupted, calibration=8, evaluate=9)


def test_examples_of_another_size_are_refused(interrupted):
    """Their MACs are not those that are recorded: a target would be met by numbers of two kinds."""
    shorter = next(iter(loader(32, 1)))["input_values"][:2, :24]
    with pytest.raises(OutputFolderError, match=r"counted [\d,]+ MACs for its original, which has [\d,]+ now"):
        _prune(interrupted, example_inputs={"input_values": shorter})


def test_altered_weights_are_refused_by_their_folder(ended, interrupted):
    path = interrupted / "iteration-001" / "model.safetensors"
    weights = load_file(path)
    next(iter(weights.values())).add_(0.5)
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(OutputFolderError, match=r"the weights in .*iteration-001 were altered since") as error:
        _prune(interrupted)
    assert "remove this folder" in str(error.value)
    shutil.rmtree(interrupted / "iteration-001")  # as the message says
    again = _prune(interrupted)
    assert [step.weights_sha256 for step in again.history.iterations] == [
        step.weights_sha256 for step in ended[1].history.iterations
    ]


def test_other_teachers_are_refused_and_those_nobody_listens_to(tmp_path):
    with pytest.raises(DataError, match="teachers are given, and healing does not distil"):
        _prune(tmp_path / "out", teachers=[_network(1)])
    assert not (tmp_path / "out").exists()
    _prune(tmp_path / "out", distill=True, teachers=[_network(1)])
    for others in ([_network(2)], []):
        with pytest.raises(OutputFolderError, match=r"made with other teachers than are given now"):
            _prune(tmp_path / "out", distill=True, teachers=others)
