"""What data need in memory is said and compared before they are read, and they are never there twice."""

import tracemalloc

import numpy as np
import pytest
import tiny_checkpoints
from datasets import Array2D, ClassLabel, Dataset, Features, Value

from har_prune.data import memory
from har_prune.data.load import load_data
from har_prune.errors import DataError
from har_prune.recipe.original import _moments


@pytest.fixture
def available(tmp_path, monkeypatch):
    def state(kib):
        (tmp_path / "meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable: {kib} kB\n")
        monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")

    return state


def test_windows_and_images_that_do_not_fit_are_refused_with_numbers(available, tmp_path):
    images, _ = tiny_checkpoints.make_vit(tmp_path)
    available(1000)
    with pytest.raises(DataError, match=r"windows of data set 'synthetic' need about 0\.0 GiB of memory and 0\.0 GiB"):
        load_data("synthetic")
    available(100)
    with pytest.raises(DataError, match=r"69 images need about 0\.0 GiB"):
        load_data(str(images))
    available(10**6)
    assert len(load_data("synthetic")) > 0
    assert len(load_data(str(images))) == 69


def test_what_is_large_is_said(available, monkeypatch, capsys):
    available(10**7)
    memory.expect_memory(4 * 2**30, "9 windows")
    assert "Reading 9 windows: about 5.0 GiB of memory" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"need about 12\.5 GiB of memory and 9\.5 GiB are available: end other"):
        memory.expect_memory(10 * 2**30, "9 windows")
    monkeypatch.setattr(memory, "_MEMINFO", memory.Path("/nowhere"))
    memory.expect_memory(2**60, "9 windows")  # nothing is known, so nothing is refused


@pytest.mark.parametrize(
    ("shape", "axes", "dtype"), [((3000, 50, 6), (0, 1), np.float32), ((3000, 3, 20, 10), (0, 2, 3), np.uint8)]
)
def test_statistics_need_no_copy_of_everything(shape, axes, dtype, monkeypatch):
    monkeypatch.setattr("har_prune.recipe.original._ROWS_AT_ONCE", 100)
    values = np.random.default_rng(0).uniform(3, 250, size=shape).astype(dtype)
    rows = np.sort(np.random.default_rng(1).permutation(3000)[:2500])
    tracemalloc.start()
    mean, std = _moments(values, rows, axes)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_allclose(mean, values[rows].mean(axis=axes, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(std, values[rows].astype(np.float64).std(axis=axes), rtol=1e-12)
    whole = 8 * values[rows].size  # in float64
    assert peak < 0.1 * whole, "100 rows of 2,500, centred and squared"


def test_windows_are_there_once(tmp_path, monkeypatch):
    monkeypatch.setattr("har_prune.data.load._ROWS_AT_ONCE", 256)
    features = Features({
        "input_values": Array2D((64, 6), "float32"), "label": ClassLabel(names=["a"]), "subject": Value("string"),
    })  # fmt: skip
    rows = {"input_values": np.ones((8000, 64, 6), np.float32), "label": [0] * 8000, "subject": ["s"] * 8000}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "train.parquet")
    (tmp_path / "README.md").write_text("---\nhar: {sampling_rate_hz: 50}\n---\n")
    load_data("synthetic")  # what is imported once
    tracemalloc.start()
    data = load_data(str(tmp_path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert data.values.nbytes <= peak < 1.3 * data.values.nbytes
