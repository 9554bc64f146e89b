"""When a device was not worn, and two devices at the same time."""

import numpy as np
import pandas as pd
import pytest
import yaml
from datasets import load_dataset

from data_prep.__main__ import main
from data_prep.wear import Rest, inside

G = 9.80665
DOWN = np.array([0.0, 0.0, 1.0])


def _recording(seconds, rate=10, *, still=(), seed=0):
    """Acceleration [T, 3] in g with motion, but for spans (start, end) in seconds."""
    values = np.random.default_rng(seed).normal(0, 0.2, (seconds * rate, 3)) + DOWN
    for start, end in still:
        part = values[start * rate : end * rate]
        part[:] = np.random.default_rng(1).normal(0, 0.002, part.shape) + DOWN
    return values


def _marked(values, rate, minutes, pieces=1):
    rest, times = Rest(minutes), np.arange(len(values)) / rate + 1_717_000_000
    for part in np.array_split(np.arange(len(values)), pieces):
        rest.add(times[part], values[part])
    return inside(times, rest.spans())


@pytest.mark.parametrize("pieces", [1, 7])
def test_spans_are_those_of_the_definition_written_out(pieces):
    values, rate, minutes = _recording(1200, still=[(130, 500), (800, 950)]) * G, 10, 3
    size, expected = 60 * rate, np.zeros(1200 * rate, bool)
    for begin in range(0, len(values) - minutes * size + 1, size):
        span = values[begin : begin + minutes * size]
        small = (span.std(0) < 0.013 * G) | (np.ptp(span, axis=0) < 0.05 * G)
        if small.sum() >= 2:
            expected[begin : begin + minutes * size] = True
    assert np.array_equal(_marked(values, rate, minutes, pieces), expected)
    assert expected.any()
    assert not expected[800 * rate :].any(), "150 s are no 3 minutes"


def test_a_recording_shorter_than_a_span_was_worn_and_what_is_left_at_the_end_is_looked_at():
    assert not _marked(np.zeros((100, 3)), 10, 5).any()
    values = _recording(659, still=[(0, 600)]) * G
    assert _marked(values, 10, 5)[:6000].all()
    assert not _marked(values, 10, 5)[6000:].any(), "59 s of motion behind ten minutes of rest"


def _written(folder, name, values, start, **more):
    table = pd.DataFrame(values, columns=["ax", "ay", "az"]).assign(t=start + np.arange(len(values)) / 10, **more)
    table.to_csv(folder / name, index=False)


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    _written(folder, "anna_left.csv", _recording(600, still=[(120, 420)]), 1_717_000_000, label="walk")
    _written(folder, "ben_left.csv", _recording(120), 1_717_000_000, label="walk")
    return folder


def _prepare(raw, out, monkeypatch, *options, **keys):
    given = {
        "sampling_rate_hz": 10,
        "time": {"column": "t", "unit": "s"},
        "channels": {f"acc_{axis}": {"column": f"a{axis}", "unit": "g"} for axis in "xyz"},
        "label": {"column": "label"},
        "subject": {"from_name": "(?P<subject>[^_]+)_.*"},
    } | keys
    (raw.parent / "map.yaml").write_text(yaml.safe_dump(given))
    command = ["data_prep", "csv", str(raw), str(out), "--columns", str(raw.parent / "map.yaml"), *options]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code or 0


def test_windows_of_a_device_that_lay_still_are_marked_and_kept(raw, tmp_path, monkeypatch, capsys):
    assert _prepare(raw, tmp_path / "plain", monkeypatch) == 0
    plain = load_dataset(str(tmp_path / "plain"), split="train")
    assert "worn" not in plain.column_names
    for processes in ("1", "2"):
        out = tmp_path / f"marked-{processes}"
        assert _prepare(raw, out, monkeypatch, "--still-min", "3", "--num-proc", processes) == 0
        marked = load_dataset(str(out), split="train")
        assert np.array_equal(marked["input_values"][:], plain["input_values"][:]), "nothing is left out or changed"
        lay = [row["start_s"] for row in marked.remove_columns("input_values") if not row["worn"]]
        assert min(lay) > 120 - 5
        assert max(lay) < 420
        assert all(row["subject"] == "anna" for row in marked.remove_columns("input_values") if not row["worn"])
    assert f"not worn: {len(lay)} windows" in " ".join(capsys.readouterr().err.split())
    assert f"{len(lay)} windows)" in (out / "README.md").read_text()


@pytest.mark.parametrize("what", ["labels that change", "gaps"])
def test_rest_does_not_end_where_a_label_or_a_packet_does(what, raw, tmp_path, monkeypatch):
    values = _recording(1200, still=[(300, 900)])
    (raw / "anna_left.csv").unlink()
    minute = np.arange(len(values)) // 600
    label = np.where(minute % 2 == 1, "sit", "lie") if what == "labels that change" else "sit"
    _written(raw, "anna_left.csv", values, 1_717_000_000, label=label)
    if what == "gaps":
        table = pd.read_csv(raw / "anna_left.csv")
        table[(table.index % 1100) > 6].to_csv(raw / "anna_left.csv", index=False)  # 0.7 s are lost every 110 s
    assert _prepare(raw, tmp_path / "out", monkeypatch, "--still-min", "5") == 0
    rows = load_dataset(str(tmp_path / "out"), split="train").remove_columns("input_values")
    lay = sorted(row["start_s"] for row in rows if not row["worn"])
    assert 295 <= lay[0] <= 305
    assert 890 <= lay[-1] < 900
    assert len(lay) > 200


def test_two_devices_at_the_same_time_are_refused_until_the_map_keeps_them(raw, tmp_path, monkeypatch, capsys):
    _written(raw, "anna_right.csv", _recording(60, seed=5), 1_717_000_030, label="walk")
    assert _prepare(raw, tmp_path / "out", monkeypatch) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "anna_left-anna and anna_right-anna recorded anna at the same time: two devices" in said
    assert not (tmp_path / "out").exists()
    assert _prepare(raw, tmp_path / "out", monkeypatch, at_once="keep") == 0


def test_one_device_after_the_other_or_clocks_from_zero_are_no_two_devices(raw, tmp_path, monkeypatch):
    _written(raw, "anna_right.csv", _recording(60, seed=5), 1_717_000_600, label="walk")
    assert _prepare(raw, tmp_path / "later", monkeypatch) == 0
    for name in ("anna_left.csv", "anna_right.csv"):
        table = pd.read_csv(raw / name)
        table.assign(t=table["t"] - table["t"].iloc[0]).to_csv(raw / name, index=False)
    assert _prepare(raw, tmp_path / "zero", monkeypatch) == 0


def test_bad_spans_are_one_message(raw, tmp_path, monkeypatch, capsys):
    assert _prepare(raw, tmp_path / "out", monkeypatch, "--still-min", "0") == 2
    assert "greater than 0" in capsys.readouterr().err
    only = {"gyro_x": {"column": "ax", "unit": "deg/s"}}
    assert _prepare(raw, tmp_path / "out", monkeypatch, "--still-min", "5", channels=only, ignore=["ay", "az"]) == 2
    assert "needs an accelerometer" in " ".join(capsys.readouterr().err.split())
