"""Files as devices write them: clocks, packets, labels and sensors in files of their own."""

import gzip
import io

import numpy as np
import pandas as pd
import pytest
from datasets import load_dataset

_MAP = """
sampling_rate_hz: 20
channels: {acc_x: {column: ax, unit: m/s^2}, acc_y: {column: ay, unit: m/s^2}}
subject: {from_name: "(?P<subject>[a-z]+).*"}
"""
MS = {"time": "{column: t, unit: ms}", "label": "{column: activity}"}


@pytest.fixture
def table():
    """Nine seconds: two of each activity and one without."""
    place = np.arange(180)
    activity = np.select([place < 60, place < 80, place < 140], ["walk", "", "sit"], "walk")
    return pd.DataFrame({"t": 50 * place + 1_700_000_000_000, "ax": place / 10, "ay": 9.8, "activity": activity})


@pytest.fixture
def prepared(prepare, tmp_path):
    def run(files, keys, code=0, *options):
        raw, out = tmp_path / "raw", tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        raw.mkdir(exist_ok=True)
        for old in raw.iterdir():
            old.unlink()
        for name, content in files.items():
            if name.lower().endswith(".parquet"):
                content.to_parquet(raw / name)
            else:
                text = content if isinstance(content, str) else content.to_csv(index=False)
                (raw / name).write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
        (tmp_path / "map.yaml").write_text(_MAP + "".join(f"{key}: {value}\n" for key, value in keys.items()))
        found, said = prepare("csv", raw, out, "--columns", tmp_path / "map.yaml", "--window-s", "1", "--overlap", "0",
                              *options)  # fmt: skip
        assert found == code, said
        if code:
            assert not out.exists()
            return said
        rows = load_dataset("parquet", data_dir=str(out), split="train")
        named = [(rows.features["label"].int2str(row["label"]), row["start_s"], row["input_values"]) for row in rows]
        return said, named, (out / "README.md").read_text()

    return run


def _places(rows):
    """First and last sample of each window, by the ramp in the first channel."""
    return [(label, round(10 * values[0][0]), round(10 * values[-1][0])) for label, _, values in rows]


EXPECTED = [("walk", 0, 19), ("walk", 20, 39), ("walk", 40, 59), ("sit", 80, 99), ("sit", 100, 119), ("sit", 120, 139),
            ("walk", 140, 159), ("walk", 160, 179)]  # fmt: skip


@pytest.mark.parametrize("name", ["anna.csv", "anna.CSV", "anna.csv.gz", "anna.parquet", "Anna.Parquet"])
def test_every_kind_of_file_gives_the_same_windows(prepared, table, name):
    _, rows, _ = prepared(
        {name.lower() if name[0] == "A" else name: table}, MS | {"label": "{column: activity, missing: drop}"}
    )
    assert _places(rows) == EXPECTED


def test_rows_without_a_label_are_refused_dropped_or_kept(prepared, table):
    said = prepared({"anna.csv": table}, MS, 2)
    assert "line 62: no activity in column 'activity'. Write missing: drop, or missing: keep" in said
    _, rows, _ = prepared({"anna.csv": table}, MS | {"label": "{column: activity, missing: keep}"})
    assert sorted(_places(rows)) == sorted([*EXPECTED, ("null", 60, 79)])


def test_local_times_are_those_of_their_zone(prepared, table):
    text = table.assign(t=pd.date_range("2024-07-01 13:00", periods=180, freq="50ms").astype(str), activity="sit")
    keys = {"label": "{column: activity}"}
    _, rows, _ = prepared({"anna.csv": text}, keys | {"time": "{column: t, unit: iso, zone: Europe/Vienna}"})
    assert len(rows) == 9
    german = text.assign(
        t=pd.date_range("2024-07-01 13:00", periods=180, freq="50ms").strftime("%d.%m.%Y %H:%M:%S.%f")
    )
    _, same, _ = prepared(
        {"anna.csv": german}, keys | {"time": '{column: t, unit: iso, format: "%d.%m.%Y %H:%M:%S.%f"}'}
    )
    assert _places(same) == _places(rows)
    twice = text.assign(t=pd.date_range("2024-10-27 02:30", periods=180, freq="50ms").astype(str))
    said = prepared({"anna.csv": twice}, keys | {"time": "{column: t, unit: iso, zone: Europe/Vienna}"}, 2)
    assert "line 2: 2024-10-27 02:30:00" in said
    assert "twice or never in Europe/Vienna" in said
    offset = text.assign(t=pd.date_range("2024-07-01", periods=180, freq="50ms", tz="UTC").astype(str))
    said = prepared({"anna.csv": offset}, keys | {"time": "{column: t, unit: iso, zone: Europe/Vienna}"}, 2)
    assert "has an offset already: leave zone out" in said
    said = prepared({"anna.csv": text}, keys | {"time": "{column: t, unit: iso, zone: Europe/Wien}"}, 2)
    assert "Europe/Wien" in said
    assert "tz database" in said
    said = prepared({"anna.csv": text}, keys | {"time": '{column: t, unit: iso, format: "%H:%M"}'}, 2)
    assert "is no time like %H:%M" in said


def test_packets_are_spread_averaged_or_their_first_is_taken(prepared, table, monkeypatch):
    packets = table.assign(t=table["t"] // 200 * 200, activity="sit")  # four samples a stamp
    assert "the time stamp repeats" in prepared({"anna.csv": packets}, MS, 2)
    for piece in (50_000, 7):  # no edge of a piece changes anything
        monkeypatch.setattr("data_prep.readers.csv_files._ROWS_AT_ONCE", piece)
        said, rows, card = prepared({"anna.csv": packets}, MS | {"time": "{column: t, unit: ms, repeats: spread}"})
        assert _places(rows) == [("sit", 20 * n, 20 * n + 19) for n in range(9)]
        assert "135 spread, came in a packet" in said
        assert "135" in card
        assert "time stamps repaired" in card
    twice = pd.concat([table, table.assign(ax=table["ax"] + 1)]).sort_values("t", kind="stable").assign(activity="sit")
    for piece in (50_000, 7):
        monkeypatch.setattr("data_prep.readers.csv_files._ROWS_AT_ONCE", piece)
        said, rows, _ = prepared({"anna.csv": twice}, MS | {"time": "{column: t, unit: ms, repeats: first}"})
        assert "180 dropped, repeated a stamp" in said
        assert rows[0][2][3][0] == pytest.approx(0.3)
        said, rows, _ = prepared({"anna.csv": twice}, MS | {"time": "{column: t, unit: ms, repeats: mean}"})
        assert "180 averaged" in said
        assert rows[0][2][3][0] == pytest.approx(0.8)


def test_a_lost_packet_is_a_gap_and_not_slow_time(prepared, table):
    packets = table.assign(t=table["t"] // 200 * 200, activity="sit").drop(index=range(60, 100))
    said, rows, _ = prepared({"anna.csv": packets}, MS | {"time": "{column: t, unit: ms, repeats: spread}"})
    assert "cuts at gaps: 1" in said
    assert _places(rows) == [("sit", a, a + 19) for a in (0, 20, 40, 100, 120, 140, 160)]


@pytest.mark.parametrize("piece", [50_000, 7])
def test_stamps_that_go_back_are_dropped_and_counted(prepared, table, monkeypatch, piece):
    monkeypatch.setattr("data_prep.readers.csv_files._ROWS_AT_ONCE", piece)
    late = pd.concat([table[:50], table[30:40].assign(ax=99.0), table[50:]]).assign(activity="sit")
    assert "goes back" in prepared({"anna.csv": late}, MS, 2)
    said, rows, _ = prepared({"anna.csv": late}, MS | {"time": "{column: t, unit: ms, backward: drop}"})
    assert "10 dropped, went back" in said
    assert _places(rows) == [("sit", 20 * n, 20 * n + 19) for n in range(9)]


def test_labels_come_from_intervals_beside_the_recording(prepared, table):
    start = table["t"][0]
    spans = pd.DataFrame({"from": [start, start + 4000, start + 7000], "to": [start + 3000, start + 7000, start + 9000],
                          "what": ["walk", "sit", "walk"]})  # fmt: skip
    label = '{from_file: "{name}.labels.csv", start: from, end: to, label: what, missing: %s}'
    bare = table.drop(columns="activity")
    files = {"anna.csv": bare, "anna.labels.csv": spans}
    _, rows, _ = prepared(files, MS | {"label": label % "drop"})
    assert _places(rows) == EXPECTED
    _, rows, _ = prepared(files, MS | {"label": label % "keep"})
    assert ("null", 60, 79) in _places(rows)
    assert "line 62: no interval of anna.labels.csv" in prepared(files, MS | {"label": label % "refuse"}, 2)
    wrong = {
        "overlap": spans.assign(to=spans["to"] + 1500),
        "ends before it starts": spans.assign(to=start - 1),
        "has no column 'what'": spans.rename(columns={"what": "label"}),
    }
    for message, bad in wrong.items():
        assert message in prepared({"anna.csv": bare, "anna.labels.csv": bad}, MS | {"label": label % "drop"}, 2)
    said = prepared({"anna.csv": bare}, MS | {"label": label % "drop"}, 2)
    assert "anna.csv has no anna.labels.csv beside it" in said


def test_a_sensor_in_a_file_of_its_own_is_joined_by_time(prepared, table):
    fast = np.arange(900)
    gyro = pd.DataFrame({"t": 10 * fast + table["t"][0] - 20, "gx": (10 * fast - 20) / 500})  # as ax, at 100 Hz
    gyro = gyro.drop(index=range(300, 400))
    joined = '[{file: "{name}_gyro.csv", sampling_rate_hz: 100, channels: {gyro_x: {column: gx, unit: rad/s}}}]'
    files = {"anna.csv": table.assign(activity="sit"), "anna_gyro.csv": gyro}
    said, rows, card = prepared(files, MS | {"joined": joined})
    assert "cuts at gaps: 1" in said
    for _, _, values in rows:
        values = np.array(values)
        np.testing.assert_allclose(values[:, 2], values[:, 0], atol=1e-5)
    assert "gyro_x rad/s" in card
    assert "anna_gyro.csv is missing" in prepared({"anna.csv": files["anna.csv"]}, MS | {"joined": joined}, 2)
    slow = files | {"anna_gyro.csv": gyro.assign(t=10 * gyro["t"])}
    assert "sampled at" in prepared(slow, MS | {"joined": joined}, 2)


def test_encodings_are_stated_and_files_that_end_early_are_refused(prepare, table, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    text = table.assign(activity="Gehen über Land").to_csv(index=False)
    (tmp_path / "map.yaml").write_text(_MAP + "time: {column: t, unit: ms}\nlabel: {column: activity}\n")
    command = ["csv", raw, tmp_path / "out", "--columns", tmp_path / "map.yaml", "--window-s", "1"]
    (raw / "anna.csv").write_bytes(text.encode("latin-1"))
    code, said = prepare(*command)
    assert (code, "cannot be read as CSV" in said) == (2, True)
    with (tmp_path / "map.yaml").open("a") as keys:
        keys.write("encoding: latin-1\n")
    code, said = prepare(*command)
    assert code == 0, said
    (raw / "anna.csv").unlink()
    for name, whole in {"anna.csv.gz": gzip.compress(text.encode("latin-1")), "anna.parquet": _parquet(table)}.items():
        (raw / name).write_bytes(whole[: len(whole) // 2])
        code, said = prepare(*command, "--overwrite")
        assert (code, f"{name} cannot be read as" in said) == (2, True)
        (raw / name).unlink()
    (tmp_path / "map.yaml").write_text(_MAP + "encoding: utf-x\ntime: {column: t}\nlabel: {column: activity}\n")
    code, said = prepare(*command, "--overwrite")
    assert (code, "encoding 'utf-x' is unknown" in said) == (2, True)


def _parquet(table):
    buffer = io.BytesIO()
    table.to_parquet(buffer)
    return buffer.getvalue()
