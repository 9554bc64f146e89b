"""Channels of data and checkpoint are compared by name, order, unit and rate, as card and extractor state them."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Array2D, ClassLabel, Dataset, Features, Value
from families import har_transformer
from scipy.signal import resample_poly

from data_prep.signals import STANDARD_GRAVITY
from har_prune import HarFeatureExtractor
from har_prune.data.batches import make_loader, preprocess_for
from har_prune.data.config import DataConfig
from har_prune.data.load import LabelledData, load_configured, load_data
from har_prune.errors import CheckpointError, DataError

NAMES = ["acc_x", "acc_y", "acc_z", "gyro_x", "gyro_y", "gyro_z"]
UNITS = ["m/s^2"] * 3 + ["rad/s"] * 3
DEGREES = np.pi / 180


def _data(values, channels, units, rate=50.0):
    rows = len(values)
    sensor = {"sampling_rate_hz": rate, "channels": channels, "units": units}
    subjects = np.full(rows, "s1")
    labels = np.zeros(rows, dtype=np.int64)
    return LabelledData("sensor", values, labels, ["a"], np.full(rows, "train"), subjects, sensor)


def _extractor(**fields):
    numbers = {"channel_mean": [0.3, 0.2, 9.0, 0.1, -0.1, 0.0], "channel_std": [2.0, 3.0, 4.0, 0.5, 0.6, 0.7]}
    named = {"channel_names": NAMES, "channel_units": UNITS}
    return HarFeatureExtractor(**{**numbers, **named, "num_channels": 6, "window_size": 32, **fields})


def _logits(data, extractor=None):
    torch.manual_seed(0)
    model = har_transformer(2).eval()
    loader = make_loader(data, range(len(data)), preprocess_for(data, extractor or _extractor(), "x"), 4)
    with torch.no_grad():
        return torch.cat([model(input_values=batch["input_values"]).logits for batch in loader])


@pytest.fixture
def right():
    values = np.random.default_rng(0).normal(size=(6, 32, 6)).astype(np.float32)
    values[..., 2] += 9.8
    return _data(values, NAMES, UNITS)


def test_channels_in_another_order_and_more_of_them_give_the_same_logits(right):
    order = [2, 5, 1, 0, 4, 3]
    swapped = _data(
        np.ascontiguousarray(right.values[..., order]), [NAMES[i] for i in order], [UNITS[i] for i in order]
    )
    assert torch.equal(_logits(swapped), _logits(right))
    more = np.concatenate([np.full((6, 32, 1), 1e6, np.float32), right.values], axis=2)
    assert torch.equal(_logits(_data(more, ["temperature", *NAMES], ["K", *UNITS])), _logits(right))
    wrong = _data(swapped.values, NAMES, UNITS)
    assert not torch.allclose(_logits(wrong), _logits(right), atol=1e-2), "what was computed before"


def test_units_that_convert_give_the_same_logits(right):
    for units, factors in (
        (["g"] * 3 + ["deg/s"] * 3, [STANDARD_GRAVITY] * 3 + [DEGREES] * 3),
        (
            ["mg", "g", "m/s^2", "rad/s", "deg/s", "rad/s"],
            [STANDARD_GRAVITY / 1000, STANDARD_GRAVITY, 1, 1, DEGREES, 1],
        ),
    ):
        data = _data((right.values / factors).astype(np.float32), NAMES, units)
        torch.testing.assert_close(_logits(data), _logits(right), rtol=1e-5, atol=1e-5)
        assert not torch.allclose(_logits(_data(data.values, NAMES, UNITS)), _logits(right), atol=1e-2)
    back = _extractor(channel_units=["g"] * 3 + ["deg/s"] * 3)
    in_g = _data((right.values / ([STANDARD_GRAVITY] * 3 + [DEGREES] * 3)).astype(np.float32), NAMES, UNITS)
    as_stated = _data(in_g.values, NAMES, ["g"] * 3 + ["deg/s"] * 3)
    torch.testing.assert_close(_logits(right, back), _logits(as_stated, back), rtol=1e-5, atol=1e-5)


def test_another_rate_is_resampled(right):
    slow = _data(resample_poly(right.values, 1, 2, axis=1, padtype="line").astype(np.float32), NAMES, UNITS, 25.0)
    inputs = preprocess_for(slow, _extractor(), "x")
    assert inputs(slow.raw([0]))["input_values"].shape == (1, 32, 6)


def test_a_channel_that_is_missing_or_in_another_quantity_is_refused(right):
    other = ["ax", *NAMES[1:]]
    with pytest.raises(CheckpointError, match=r"checkpoint x takes a channel 'acc_x'.*rename_channels: \{name in the"):
        _logits(_data(right.values, other, UNITS))
    with pytest.raises(CheckpointError, match="Did you mean 'acc_xx'"):
        _logits(_data(right.values, ["acc_xx", *NAMES[1:]], UNITS))
    with pytest.raises(CheckpointError, match=r"'acc_x' is in 'rad/s' in the data and in 'm/s\^2' in checkpoint x"):
        _logits(_data(right.values, NAMES, ["rad/s", *UNITS[1:]]))
    with pytest.raises(CheckpointError, match="'gyro_z' is in 'uT' in the data"):
        _logits(_data(right.values, NAMES, [*UNITS[:5], "uT"]))
    same = _extractor(channel_units=[*UNITS[:5], "uT"])
    assert _logits(_data(right.values, NAMES, [*UNITS[:5], "uT"]), same).isfinite().all(), "unknown, and the same"


def test_a_checkpoint_that_contradicts_itself_is_refused(right):
    for wrong in ({"channel_names": NAMES[:5]}, {"channel_units": UNITS[:5]}):
        with pytest.raises(CheckpointError, match=r"takes 6 channels, and its preprocessor_config\.json states 5"):
            _logits(right, _extractor(**wrong))


def test_a_checkpoint_without_names_is_compared_by_number_with_a_warning(right):
    old = _extractor(channel_names=None, channel_units=None)
    with pytest.warns(UserWarning, match="checkpoint x states no channels: names, order and units are taken to be"):
        assert torch.equal(_logits(right, old), _logits(right))
    with pytest.warns(UserWarning, match="the card of the data states no units"):
        _logits(_data(right.values, NAMES, None))
    with pytest.raises(CheckpointError, match=r"takes 6 channels .* and the data have 3"):
        _logits(_data(right.values[..., :3], NAMES[:3], UNITS[:3]), old)


def _folder(folder, facts, names=("a", "b")):
    windows = np.random.default_rng(0).normal(size=(4, 8, 3)).astype(np.float32)
    features = Features({
        "input_values": Array2D((8, 3), "float32"), "label": ClassLabel(names=list(names)), "subject": Value("string"),
    })  # fmt: skip
    rows = {"input_values": windows, "label": [0, 1, 0, 1], "subject": ["s1", "s1", "s2", "s2"]}
    folder.mkdir(exist_ok=True)
    Dataset.from_dict(rows, features=features).to_parquet(folder / "train.parquet")
    (folder / "README.md").write_text("---\nhar:\n" + "".join(f"  {key}: {facts[key]}\n" for key in facts) + "---\n")
    return str(folder)


def test_a_recipe_renames_channels(tmp_path):
    path = _folder(tmp_path / "a", {"sampling_rate_hz": 50, "channels": "[ax, ay, az]", "units": "[g, g, g]"})
    config = DataConfig(name_or_path=path, rename_channels={"ax": "acc_x", "ay": "acc_y", "az": "acc_z"})
    assert load_configured(config).sensor["channels"] == NAMES[:3]
    assert load_data(path).sensor["channels"] == ["ax", "ay", "az"]
    with pytest.raises(DataError, match=r"names no channel 'axx' \(channels: ax, ay, az\)\. Did you mean 'ax'"):
        load_data(path, rename_channels={"axx": "acc_x"})
    with pytest.raises(DataError, match="two channels would be called 'ay'"):
        load_data(path, rename_channels={"ax": "ay"})


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        *(("sampling_rate_hz", value, "a number of Hz above 0 and up to 100,000") for value in (
            "fast", "0", "-20", ".inf", ".nan", "[20]", "true", "'50'", "100001", "null",
        )),
        *(("channels", value, "a list of distinct names, one for each of the windows' 3 channels") for value in (
            "[x, y]", "[x, y, y]", "xyz", "[x, y, 3]", "{x: 1, y: 2, z: 3}",
        )),
        *(("units", value, "a list, e.g. m/s") for value in ("[g, g]", "g", "[g, g, 1]")),
        *(("window_s", value, "a number of seconds above 0") for value in ("0", "long", "-1")),
        ("hop_s", ".inf", "a number of seconds above 0"),
    ],
)  # fmt: skip
def test_facts_of_the_card_are_checked(key, value, allowed, tmp_path):
    right = {"sampling_rate_hz": 50, "channels": "[x, y, z]", "units": "[g, g, uT]", "window_s": 0.16, "hop_s": 0.08}
    assert load_data(_folder(tmp_path / "a", right)).sensor["units"] == ["g", "g", "uT"]
    with pytest.raises(DataError, match=rf"states har\.{key} = ") as error:
        load_data(_folder(tmp_path / "a", {**right, key: value}))
    assert allowed in str(error.value)


def test_two_classes_of_one_name_are_refused(tmp_path):
    path = _folder(tmp_path / "a", {"sampling_rate_hz": 50})
    table = pq.read_table(f"{path}/train.parquet")
    metadata = {key: value.replace(b'["a", "b"]', b'["a", "a"]') for key, value in table.schema.metadata.items()}
    pq.write_table(table.replace_schema_metadata(metadata), f"{path}/train.parquet")
    with pytest.raises(DataError, match=r"cannot be read: Some label names are duplicated"):
        load_data(path)


@pytest.mark.parametrize("stated", [{"window_s": 4.0}, {}, {"window_s": 0.5}])
def test_windows_longer_than_the_models_are_refused_with_the_length_to_prepare(stated):
    """By the windows themselves, whatever their card states."""
    values = np.zeros((2, 200, 6), np.float32)
    data = _data(values, NAMES, UNITS)
    data.sensor.pop("window_s", None)
    data.sensor.update(stated)
    with pytest.raises(
        CheckpointError, match=r"windows of up to 0\.64 s and the data have windows of 4 s.*--window-s"
    ):
        preprocess_for(data, _extractor(sampling_rate_hz=50.0), "model")
    assert preprocess_for(data, _extractor(sampling_rate_hz=50.0, window_size=200), "model")


@pytest.mark.parametrize("rate", ["fast", 0, -20, True, float("inf")])
def test_a_rate_of_the_checkpoint_that_cannot_be_is_refused(rate):
    extractor = _extractor()
    extractor.sampling_rate_hz = rate
    with pytest.raises(CheckpointError, match=r"its preprocessor_config\.json has sampling_rate_hz="):
        preprocess_for(_data(np.zeros((2, 32, 6), np.float32), NAMES, UNITS), extractor, "model")
