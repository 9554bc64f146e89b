import sys

import numpy as np
import pytest
import trees
from datasets import load_dataset
from huggingface_hub import DatasetCard

from data_prep import recordings
from data_prep.__main__ import main
from data_prep.errors import PrepError
from data_prep.hub_folder import to_dataset
from data_prep.readers import synthetic, wharf
from data_prep.recordings import Recording, Windowing


def _all(reader, raw):
    info = reader.infos[0]
    return [recording for part in reader.parts(raw, info) for recording in reader.read(part, info)]


def _run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["data_prep", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit:
        main()
    return exit.value.code


def test_codes_become_metres_per_second_squared(tmp_path):
    (recording, *_) = _all(wharf.READER, trees.wharf(tmp_path))
    limit = 1.5 * 9.80665
    assert recording.values[0] == pytest.approx([-limit, limit, (31 / 63 * 3 - 1.5) * 9.80665])
    assert recording.activity == "Comb_hair"
    assert recording.subject == "f1"


def test_a_prepared_folder_is_what_load_dataset_reads(tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert _run(monkeypatch, "wharf", trees.wharf(tmp_path / "raw"), out, "--drop", "Eat_soup") == 0
    table = load_dataset(str(out), split="train")
    row = table.with_format("numpy")[0]
    assert row["input_values"].shape == (160, 3)
    assert row["input_values"].dtype == np.float32
    assert "Eat_soup" not in table.features["label"].names
    assert len(table.features["label"].names) == 13
    assert len(table) == 3 * 4, "400 samples hold four windows of 160 with a hop of 80; the templates are left out"
    assert table["start_s"][:4] == [0.0, 2.5, 5.0, 7.5]
    card = DatasetCard.load(out / "README.md").data.to_dict()
    assert card["har"] == {
        "sampling_rate_hz": 32.0,
        "channels": ["acc_x", "acc_y", "acc_z"],
        "units": ["m/s^2"] * 3,
        "window_s": 5.0,
        "hop_s": 2.5,
    }
    assert (card["license_name"], card["citation"]) == (wharf.INFO.license, wharf.INFO.citation)
    assert _run(monkeypatch, "wharf", tmp_path / "raw", out) == 2, "an existing folder is not overwritten"


def test_windows_never_cross_a_recording_and_short_ones_are_counted():
    windowing = Windowing(wharf.INFO, window_s=0.25, overlap=0.5)
    recordings = [
        Recording(np.full((length, 3), number, float), "Walk", "f1", str(number))
        for number, length in enumerate((20, 7, 9))
    ]
    rows = list(windowing.rows(recordings))
    assert all(len(np.unique(row["input_values"])) == 1 for row in rows)
    assert [row["trial"] for row in rows] == ["0"] * 4 + ["2"]
    assert +windowing.too_short == {"Walk": 1}


@pytest.mark.parametrize("line", ["12 x 31", "12 31", "1 2 64", "1 2 3 4", "1.5 2 3"])
def test_a_line_that_is_not_three_codes_is_named(tmp_path, monkeypatch, capsys, line):
    raw = trees.wharf(tmp_path / "raw")
    path = next((raw / "Data" / "Walk").glob("*m2.txt"))
    lines = path.read_text().splitlines()
    lines[41] = line
    path.write_text("\n".join(lines))
    assert _run(monkeypatch, "wharf", raw, tmp_path / "out") == 2
    message = " ".join(capsys.readouterr().err.split())
    assert f"{path.name}, line 42: '{line}' is not three integers from 0 to 63" in message
    assert sorted(p.name for p in tmp_path.iterdir()) == ["raw"], "nothing half-written"
    lines[41] = "12 13 31"
    path.write_text("\n".join(lines))
    assert _run(monkeypatch, "wharf", raw, tmp_path / "out") == 0


def test_other_folders_and_options_are_refused(tmp_path, monkeypatch, capsys):
    assert _run(monkeypatch, "wharf", tmp_path / "nowhere", tmp_path / "out") == 2
    assert "does not exist: give the publisher's folder" in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    assert _run(monkeypatch, "wharf", tmp_path / "other", tmp_path / "out") == 2
    assert "holds no WHARF recordings" in capsys.readouterr().err
    raw = trees.wharf(tmp_path / "raw")
    assert _run(monkeypatch, "wharf", raw, tmp_path / "out", "--drop", "Walks") == 2
    assert "no such activity" in capsys.readouterr().err
    assert _run(monkeypatch, "wharf", raw, tmp_path / "out", "--overlap", "1") == 2
    assert _run(monkeypatch, "wharf", raw, tmp_path / "out", "--window-s", "60") == 2
    assert "no recording is as long" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(PrepError, match="every activity is dropped"):
        Windowing(wharf.INFO, 5.0, 0.5, wharf.INFO.activities)


def test_the_synthetic_data_are_the_same_everywhere():
    first, second = (list(synthetic.recordings(subjects=2, seconds=4)) for _ in range(2))
    assert all(np.array_equal(a.values, b.values) for a, b in zip(first, second, strict=True))
    assert len(first) == 12
    still = next(r for r in first if r.activity == "sitting").values
    assert np.linalg.norm(still[:, :3], axis=1).mean() == pytest.approx(9.8, abs=0.5), "gravity"
    running = next(r for r in first if r.activity == "running").values
    assert running[:, :3].std() > 3 * still[:, :3].std(axis=0).max()
    (other,) = [r for r in synthetic.recordings(subjects=1, seconds=4, seed=1) if r.activity == "sitting"]
    assert not np.array_equal(other.values, still)
    table = to_dataset(first, Windowing(synthetic.INFO, 2.56, 0.5))
    assert set(table["subject"]) == {"s01", "s02"}


@pytest.mark.data
def test_wharf_as_published(shared):
    recordings = _all(wharf.READER, shared / "data" / "raw" / "WHARF Data Set")
    assert len(recordings) == 892
    assert len({recording.subject for recording in recordings}) == 17
    assert len({recording.activity for recording in recordings}) == 14
    windowing = Windowing(wharf.INFO, 5.0, 0.5, ("Eat_meat", "Eat_soup"))
    assert len(to_dataset(recordings, windowing)) == 3880
    assert sum(windowing.too_short.values()) == 83
    upright = np.concatenate([r.values for r in recordings if r.activity == "Walk"]).mean(axis=0)
    assert np.linalg.norm(upright) == pytest.approx(9.8, abs=1.5), "the mean acceleration of walking is gravity"


@pytest.mark.parametrize("setting", ["window_s", "overlap", "rate_hz", "max_gap_s"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_windows_that_cannot_be_cut_are_refused(setting, value):
    with pytest.raises(PrepError, match="the window hold a sample, the overlap be at least 0"):
        Windowing(wharf.INFO, **{setting: value})


@pytest.mark.parametrize(("former", "now"), [("DataSet", "Reader"), ("Source", "DatasetInfo")])
def test_former_names_are_known_for_one_release(former, now):
    with pytest.warns(DeprecationWarning, match=f"{former} is called {now}"):
        assert getattr(recordings, former) is getattr(recordings, now)
    with pytest.raises(AttributeError, match="no attribute 'Sauce'"):
        _ = recordings.Sauce
