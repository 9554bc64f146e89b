import numpy as np
import pytest

from har_prune.data.load import LabelledData
from har_prune.recipe.original import make_original


def _data(channel):
    """Windows [8, 32, 2]: noise, and a channel that is given."""
    values = np.random.default_rng(0).normal(size=(8, 32, 2)).astype(np.float32)
    values[..., 1] = channel
    return LabelledData(
        "sensor", values, np.arange(8) % 2, ["sit", "walk"], np.full(8, "train"), np.full(8, "s1"),
        {"sampling_rate_hz": 50.0, "channels": ["acc_x", "light"], "units": ["m/s^2", "lx"]},
    )  # fmt: skip


def _extractor(data):
    config = {"model_type": "har_transformer", "num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2}
    return make_original(config, data, np.arange(8))[1]


@pytest.mark.parametrize("value", [0.0, 9.81, -300.0])
def test_a_constant_channel_is_left_unscaled_and_named(value):
    with pytest.warns(UserWarning, match=r"channel light is constant .* left unscaled"):
        extractor = _extractor(_data(value))
    assert extractor.channel_std[1] == 1.0
    drifted = extractor(np.stack([np.zeros(32), np.full(32, value + 0.001)], axis=1))["input_values"]
    assert abs(drifted[..., 1]).max() < 0.01, "a drift of 0.001 was 1,000 standard deviations"


@pytest.mark.filterwarnings("error")
def test_small_numbers_are_no_constant():
    tesla = 4e-5 + 2e-5 * np.sin(np.arange(256)).reshape(8, 32)
    assert _extractor(_data(tesla)).channel_std[1] == pytest.approx(tesla.std(), rel=1e-3)
    pressure = 101_325 + 5 * np.sin(np.arange(256)).reshape(8, 32)
    assert _extractor(_data(pressure)).channel_std[1] == pytest.approx(pressure.std(), rel=1e-2)
