from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Array2D, ClassLabel, Dataset, Features, Value, load_dataset
from pydantic import ValidationError
from transformers import ViTImageProcessor

from data_prep.hub_folder import new_folder, write
from data_prep.readers import synthetic
from data_prep.recordings import Windowing
from har_prune import HarFeatureExtractor
from har_prune.data.batches import ImageInputs, SensorInputs, make_loader
from har_prune.data.config import DataConfig
from har_prune.data.load import LabelledData, load_data
from har_prune.data.protocols import make_splits
from har_prune.data.transforms import rotation
from har_prune.errors import DataError


def _data(subjects, labels):
    labels = np.asarray(labels)
    values = np.random.default_rng(0).normal(size=(len(labels), 8, 3)).astype(np.float32)
    sensor = {"sampling_rate_hz": 10.0}
    names = ["a", "b", "c"]
    return LabelledData("sensor", values, labels, names, np.full(len(labels), "train"), np.asarray(subjects), sensor)


def _config(**fields):
    return DataConfig(**{"name_or_path": "x", "protocol": "loso", "test_subject": "s0", **fields})


def _prepare(out, subjects):
    reader = synthetic.reader(subjects)
    with new_folder(out) as folder:
        write(reader, reader.parts(folder, synthetic.INFO), Windowing(synthetic.INFO), folder)


def test_a_prepared_folder_and_the_embedded_data_are_the_same(tmp_path):
    _prepare(tmp_path / "out", 12)
    folder, embedded = load_data(str(tmp_path / "out")), load_data("synthetic")
    assert np.array_equal(folder.values, embedded.values)
    assert np.array_equal(folder.labels, embedded.labels)
    assert folder.label_names == embedded.label_names == list(synthetic.INFO.activities)
    assert folder.sensor == embedded.sensor
    assert folder.sensor["sampling_rate_hz"] == 50.0
    assert folder.values.shape[1:] == (128, 6)


def test_no_subject_stands_on_two_sides():
    subjects = np.repeat([f"s{i}" for i in range(10)], 12)
    data = _data(subjects, np.tile([0, 1, 2], 40))
    splits = make_splits(data, _config(), seed=0)
    parts = [set(subjects[getattr(splits, part)]) for part in ("train", "validation", "test")]
    assert parts[2] == {"s0"}
    assert not parts[0] & parts[1]
    assert not (parts[0] | parts[1]) & parts[2]
    assert sum(map(len, parts)) == 10
    assert set(subjects[splits.calibration]) <= parts[1]
    again = make_splits(data, _config(), seed=0)
    assert np.array_equal(splits.validation, again.validation)
    assert any(not np.array_equal(splits.validation, make_splits(data, _config(), seed=s).validation) for s in (1, 2))


def _with_trials():
    """10 subjects, 2 activities, 6 trials of each with 5 windows."""
    subjects = np.repeat([f"s{i}" for i in range(10)], 60)
    trials = np.repeat([f"t{i}" for i in range(120)], 5)
    data = _data(subjects, np.tile(np.repeat([0, 1], 30), 10))
    return replace(data, trials=trials)


def test_leave_trials_out_keeps_whole_trials_together():
    data = _with_trials()
    splits = make_splits(data, DataConfig(name_or_path="x", protocol="trial_holdout", test_fraction=0.25), seed=0)
    parts = [set(data.trials[getattr(splits, part)]) for part in ("train", "validation", "test")]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 120
    for label in (0, 1):
        assert (data.labels[splits.test] == label).sum() == pytest.approx(75, abs=5), "a share of each activity"
    assert set(data.subjects[splits.test]) & set(data.subjects[splits.train]), "subjects do stand on both sides"
    other = make_splits(data, DataConfig(name_or_path="x", protocol="trial_holdout", test_fraction=0.25), seed=1)
    assert np.array_equal(splits.test, other.test), "else `evaluate` would test on what another seed trained on"
    assert not np.array_equal(splits.validation, other.validation)
    with pytest.raises(DataError, match="needs a column 'trial'"):
        make_splits(_data(["s0", "s1"] * 6, [0, 1] * 6), DataConfig(name_or_path="x", protocol="trial_holdout"), 0)


def test_a_few_long_trials_leave_none_to_validate():
    data = _data(["s0"] * 80, [0, 1] * 40)
    config = DataConfig(name_or_path="x", protocol="trial_holdout", test_fraction=0.25, validation_fraction=0.1)
    with pytest.raises(DataError, match=r"validation_fraction=0\.1 leaves no whole trial to validate"):
        make_splits(replace(data, trials=np.repeat(["t1", "t2", "t3", "t4"], 20)), config, 0)


def test_the_leaky_split_leaks_as_its_name_says():
    data = _with_trials()
    splits = make_splits(data, DataConfig(name_or_path="x", protocol="leaky_window_split", test_fraction=0.5), seed=0)
    assert len(splits.test) == 300
    assert set(data.trials[splits.test]) & set(data.trials[splits.train])
    assert not set(splits.test) & set(splits.train)


def test_validation_passes_over_large_subjects_and_keeps_every_label_in_training():
    subjects = ["s0"] * 6 + ["big"] * 60 + ["rare"] * 8 + ["s3"] * 9 + ["s4"] * 9
    labels = [0, 1] * 3 + [0, 1] * 30 + [2] * 8 + [0, 1, 0] * 3 + [0, 1, 1] * 3
    data = _data(subjects, labels)
    for seed in range(6):
        splits = make_splits(data, _config(validation_fraction=0.1), seed)
        assert set(np.asarray(subjects)[splits.validation]) <= {"s3", "s4"}


def test_a_label_training_never_saw_is_refused():
    data = _data(["s0"] * 4 + ["s1"] * 6 + ["s2"] * 6, [0, 1, 2, 2] + [0, 1] * 6)
    with pytest.raises(DataError, match=r"label 'c' occurs in the test data \(subjects s0\).*--drop"):
        make_splits(data, _config(validation_fraction=0.5), 0)


def test_a_protocol_that_does_not_fit_is_refused():
    data = _data(np.repeat(["s0", "s1", "s2"], 6), [0, 1, 2] * 6)
    with pytest.raises(DataError, match=r"'s9' is not in the data \(subjects: s0, s1, s2\)"):
        make_splits(data, _config(test_subject="s9"), 0)
    with pytest.raises(DataError, match="needs a split called 'test'"):
        make_splits(data, _config(protocol="official", test_subject=None), 0)
    with pytest.raises(DataError, match="leaves 18 of 18"):
        make_splits(data, DataConfig(name_or_path="x", protocol="holdout", test_subjects=("s0", "s1", "s2")), 0)
    with pytest.raises(ValidationError, match="loso needs it"):
        DataConfig(name_or_path="x", protocol="loso")
    with pytest.raises(ValidationError, match=r"unknown augmentation 'jiter'.*Did you mean 'jitter'"):
        _config(augment=("jiter",))
    inputs = SensorInputs(HarFeatureExtractor(num_channels=3, window_size=8, sampling_rate_hz=10), 10)
    with pytest.raises(DataError, match="'flip' is not for sensor data"):
        make_loader(data, range(4), inputs, 2, augment=["flip"])


def test_a_folder_prepared_anew_is_read_anew(tmp_path):
    """datasets 5.2 caches a folder whose card has `configs` by its name alone."""
    for number, subjects in enumerate((1, 2)):
        out = tmp_path / str(number) / "same_name"
        _prepare(out, subjects)
        assert len(set(load_dataset(str(out), split="train")["subject"])) == subjects
        card = out / "README.md"
        configs = "configs: [{config_name: default, data_files: data/train-*.parquet}]"
        card.write_text(card.read_text().replace("---\n", f"---\n{configs}\n", 1))
        assert len(set(load_data(str(out)).subjects)) == subjects


def _write(folder, windows, subjects=None):
    features = Features(
        {
            "input_values": Array2D(windows.shape[1:], "float32"),
            "label": ClassLabel(names=["a", "b"]),
            "subject": Value("string"),
            "trial": Value("string"),
        }
    )
    rows = {
        "input_values": windows,
        "label": [i % 2 for i in range(len(windows))],
        "subject": subjects or ["s1"] * len(windows),
        "trial": [f"t{i}" for i in range(len(windows))],
    }
    folder.mkdir()
    Dataset.from_dict(rows, features=features).to_parquet(folder / "train.parquet")


def test_folders_that_are_not_ours_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"does not exist\. Prepare it with `python -m data_prep`"):
        load_data(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="is empty"):
        load_data(str(tmp_path / "empty"))
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.csv").write_text("x,y\n1,2\n")
    with pytest.raises(DataError, match="its columns are x, y"):
        load_data(str(tmp_path / "text"))
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk" / "train.parquet").write_bytes(b"not parquet")
    with pytest.raises(DataError, match="cannot be read"):
        load_data(str(tmp_path / "junk"))
    windows = np.zeros((4, 8, 3), np.float32)
    _write(tmp_path / "no_card", windows)
    with pytest.raises(DataError, match=r"does not state har.sampling_rate_hz"):
        load_data(str(tmp_path / "no_card"))


def test_a_row_of_nobody_is_named(tmp_path):
    """It was of a person called None, who could be a fold."""
    _write(tmp_path / "none", np.zeros((4, 8, 3), np.float32), ["s1", None, "s2", "s2"])
    (tmp_path / "none" / "README.md").write_text("---\nhar: {sampling_rate_hz: 10}\n---\n")
    with pytest.raises(DataError, match="row 1 has no subject: fill it in, or drop the row"):
        load_data(str(tmp_path / "none"))


def test_nan_in_a_window_is_named(tmp_path):
    windows = np.zeros((4, 8, 3), np.float32)
    windows[2, 5, 1] = np.nan
    _write(tmp_path / "nan", windows)
    with pytest.raises(DataError, match=r"1 of 4 windows hold NaN.*row 2 \(subject 's1', trial 't2'\)"):
        load_data(str(tmp_path / "nan"))


def test_image_batches_equal_the_processors_own():
    images = torch.randint(256, (5, 3, 16, 16), dtype=torch.uint8)
    for processor in (
        ViTImageProcessor(size={"height": 16, "width": 16}),
        ViTImageProcessor(size={"height": 16, "width": 16}, do_normalize=False),
        ViTImageProcessor(size={"height": 24, "width": 24}),
    ):
        expected = processor(images=list(images.permute(0, 2, 3, 1).numpy()), return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(ImageInputs(processor)(images)["pixel_values"], expected)


def test_training_batches_are_shuffled_and_augmented_and_others_are_not():
    data = _data(["s"] * 20, [0, 1] * 10)
    inputs = SensorInputs(HarFeatureExtractor(num_channels=3, window_size=8, sampling_rate_hz=10), 10)
    plain = torch.cat([batch["input_values"] for batch in make_loader(data, range(20), inputs, 8)])
    assert torch.equal(plain, torch.from_numpy(data.values))
    shuffled = torch.cat([batch["input_values"] for batch in make_loader(data, range(20), inputs, 8, augment=[])])
    assert len(shuffled) == 16, "a last small batch would upset batch normalisation"
    assert not torch.equal(shuffled, plain[:16])
    loader = make_loader(data, range(20), inputs, 8, augment=["scaling"])
    scaled = loader.augment(next(iter(loader)), 0)["input_values"]
    assert not any((scaled[0] == window).all() for window in plain)


def test_windows_are_augmented_in_physical_units_after_they_were_normalised():
    data = _data(["s"] * 8, [0, 1] * 4)
    extractor = HarFeatureExtractor(
        num_channels=3, window_size=8, sampling_rate_hz=10, channel_mean=[9, 0, 1], channel_std=[2, 3, 4]
    )
    inputs = SensorInputs(extractor, 10)
    loader = make_loader(data, range(8), inputs, 8, augment=["rotation"])
    batch = next(iter(loader))
    torch.manual_seed(0)
    found = loader.augment(batch, 0)["input_values"]
    order = batch["index"].tolist()
    torch.manual_seed(0)
    expected = inputs(rotation(data.raw(order)))["input_values"]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(expected, extractor(rotation_of_seed(data.raw(order)), return_tensors="pt")["input_values"])


def rotation_of_seed(windows):
    torch.manual_seed(0)
    return rotation(windows).numpy()


def test_the_former_name_of_a_protocol_is_read():
    with pytest.warns(DeprecationWarning, match="loto is now trial_holdout"):
        assert DataConfig(name_or_path="x", protocol="loto").protocol == "trial_holdout"
