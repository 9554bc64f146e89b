"""Files as devices write them: clocks, packets, labels and sensors in files of their own."""

import gzip
import io
import re
from datetime import datetime

import numpy as np
import pandas as pd
import pytest
import yaml
from datasets import load_dataset
from geneactiv import write_geneactiv
from own_map import OWN_MAP

from data_prep.column_map import load_map
from data_prep.inspection import inspect

G = 9.80665
MS = {"time": "{column: t, unit: ms}", "label": "{column: activity}"}


@pytest.fixture
def table():
    """Nine seconds: two of each activity and one without."""
    place = np.arange(180)
    activity = np.select([place < 60, place < 80, place < 140], ["walk", "", "sit"], "walk")
    return pd.DataFrame({"t": 50 * place + 1_700_000_000_000, "ax": place / 10, "ay": 9.8, "activity": activity})


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
    assert (
        "line 62: no activity in column 'activity' (empty, nan, NA, None). Write missing: drop, or missing: keep"
        in said
    )
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
        monkeypatch.setattr("data_prep.mapped_files._ROWS_AT_ONCE", piece)
        said, rows, card = prepared({"anna.csv": packets}, MS | {"time": "{column: t, unit: ms, repeats: spread}"})
        assert _places(rows) == [("sit", 20 * n, 20 * n + 19) for n in range(9)]
        assert "135 spread, came in a packet" in said
        assert "135" in card
        assert "time stamps repaired" in card
    twice = pd.concat([table, table.assign(ax=table["ax"] + 1)]).sort_values("t", kind="stable").assign(activity="sit")
    for piece in (50_000, 7):
        monkeypatch.setattr("data_prep.mapped_files._ROWS_AT_ONCE", piece)
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
    monkeypatch.setattr("data_prep.mapped_files._ROWS_AT_ONCE", piece)
    late = pd.concat([table[:50], table[30:40].assign(ax=99.0), table[50:]]).assign(activity="sit")
    assert "goes back" in prepared({"anna.csv": late}, MS, 2)
    said, rows, _ = prepared({"anna.csv": late}, MS | {"time": "{column: t, unit: ms, backward: drop}"})
    assert "10 dropped, went back" in said
    assert _places(rows) == [("sit", 20 * n, 20 * n + 19) for n in range(9)]


def test_labels_come_from_intervals_beside_the_recording(prepared, table):
    start = table["t"][0]
    begins, ends = [start, start + 4000, start + 7000], [start + 3000, start + 7000, start + 9000]
    spans = pd.DataFrame({"from": begins, "to": ends, "what": ["walk", "sit", "walk"]})
    label = '{from_file: "{name}.labels.csv", start: from, end: to, label: what, missing: %s}'
    bare = table.drop(columns="activity")
    files = {"anna.csv": bare, "anna.labels.csv": spans}
    _, rows, _ = prepared(files, MS | {"label": label % "drop"})
    assert _places(rows) == EXPECTED
    _, rows, _ = prepared(files, MS | {"label": label % "keep"})
    assert ("null", 60, 79) in _places(rows)
    assert "line 62: no interval of anna.labels.csv" in prepared(files, MS | {"label": label % "refuse"}, 2)
    unnamed = files | {"anna.labels.csv": spans.assign(what=["walk", "NA", "walk"])}  # as R writes it
    _, rows, _ = prepared(unnamed, MS | {"label": label % "drop"})
    assert {activity for activity, *_ in rows} == {"walk"}
    _, rows, _ = prepared(unnamed, MS | {"label": label % "keep"})
    assert {activity for activity, *_ in rows} == {"walk", "null"}
    said = prepared(unnamed, MS | {"label": label % "refuse"}, 2)
    assert "anna.labels.csv, line 3: no activity in column 'what' (empty, nan, NA, None)" in said
    wrong = {
        "overlap": spans.assign(to=spans["to"] + 1500),
        "ends before it starts": spans.assign(to=start - 1),
        "has no column 'what'": spans.rename(columns={"what": "label"}),
    }
    for message, bad in wrong.items():
        assert message in prepared({"anna.csv": bare, "anna.labels.csv": bad}, MS | {"label": label % "drop"}, 2)
    said = prepared({"anna.csv": bare}, MS | {"label": label % "drop"}, 2)
    assert "anna.csv has no anna.labels.csv beside it" in said


@pytest.mark.parametrize("nobody", ["NA", "nan", "None", ""])
def test_who_has_no_name_is_nobody(prepared, table, nobody):
    table = table.assign(activity="sit", who=["anna"] * 100 + [nobody] * (len(table) - 100))
    said = prepared({"x.csv": table}, MS | {"subject": "{column: who}"}, 2)
    assert "line 102: no subject in column 'who' (empty, nan, NA, None)" in said


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
    (tmp_path / "map.yaml").write_text(OWN_MAP + "time: {column: t, unit: ms}\nlabel: {column: activity}\n")
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
    (tmp_path / "map.yaml").write_text(OWN_MAP + "encoding: utf-x\ntime: {column: t}\nlabel: {column: activity}\n")
    code, said = prepare(*command, "--overwrite")
    assert (code, "encoding 'utf-x' is unknown" in said) == (2, True)


def _parquet(table):
    buffer = io.BytesIO()
    table.to_parquet(buffer)
    return buffer.getvalue()


def test_a_devices_own_file_is_read_and_labelled_by_intervals(prepare, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    values = np.zeros((1200, 3))
    values[:, 0], values[:, 2] = np.arange(1200) / 1200, 1.0
    write_geneactiv(raw / "anna_left.bin", values, 50.0, datetime(2024, 5, 31, 13))
    (raw / "anna_left.labels.csv").write_text(
        "start,end,label\n2024-05-31T13:00:02,2024-05-31T13:00:10,walk\n2024-05-31T13:00:10,2024-05-31T13:00:20,sit\n"
    )
    (tmp_path / "map.yaml").write_text("""
sampling_rate_hz: 50
time: {column: time, unit: ns}
channels:
  acc_x: {column: acc_x, unit: g}
  acc_y: {column: acc_y, unit: g}
  acc_z: {column: acc_z, unit: g}
label: {from_file: "{name}.labels.csv", unit: iso, missing: drop}
subject: {from_name: "(?P<subject>[a-z]+)_.*"}
""")
    command = ["csv", raw, tmp_path / "out", "--columns", tmp_path / "map.yaml", "--window-s", "2", "--overlap", "0"]
    code, said = prepare(*command)
    assert code == 0, said
    rows = load_dataset("parquet", data_dir=str(tmp_path / "out"), split="train")
    assert [rows.features["label"].int2str(label) for label in rows["label"]] == ["walk"] * 4 + ["sit"] * 5
    expected = np.round(values[100:200] * 256) / 256 * G
    np.testing.assert_allclose(np.array(rows[0]["input_values"]), expected, atol=1e-5)
    labels, map_ = raw / "anna_left.labels.csv", tmp_path / "map.yaml"
    written, seconds = (
        labels.read_text(),
        pd.Timestamp("2024-05-31T11:00:02", tz="UTC").timestamp(),
    )  # two hours behind
    labels.write_text(f"start,end,label\n{seconds},{seconds + 8},walk\n")
    map_.write_text(map_.read_text().replace("unit: iso", "unit: s"))
    code, said = prepare(*command, "--overwrite")
    assert (code, "count from 1970 in UTC" in said) == (2, True)
    labels.write_text(written)
    map_.write_text(map_.read_text().replace("unit: s,", "unit: iso,"))
    whole = (raw / "anna_left.bin").read_bytes()
    (raw / "anna_left.bin").write_bytes(b"\x00" * 2000 + whole[:100])
    code, said = prepare(*command, "--overwrite")
    assert (code, "anna_left.bin cannot be read" in said) == (2, True)


def _walk(rate, seconds):
    time = np.arange(int(rate * seconds)) / rate
    return time, np.stack([np.sin(9 * time), np.cos(7 * time) / 2, 9.8 + np.sin(5 * time)], 1)


def test_inspect_writes_the_map_that_reads_the_file(prepare, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    time, values = _walk(50, 30)
    stamps = pd.to_datetime("2024-05-31T13:00:00+02:00") + pd.to_timedelta(time, unit="s")
    table = pd.DataFrame(values / G, columns=["Accel X", "Accel Y", "Accel Z"])
    table = table.assign(timestamp=stamps.astype(str), activity="gehen", Temp=20.5)
    table.loc[:99, "activity"] = None
    text = "Logger 3\nGröße: M\n" + table.to_csv(sep=";", decimal=",", index=False)
    (raw / "anna_1.csv").write_bytes(text.encode("latin-1"))
    code, said = prepare("inspect", raw / "anna_1.csv", "--output", tmp_path / "map.yaml")
    assert code == 0, said
    for expected in (
        "rate by the median step: 50 Hz",
        "0 repeat, 0 go back, 0 pauses",
        ": g",
        "rows without an activity: 100",
    ):
        assert expected in said
    written = load_map(tmp_path / "map.yaml")
    assert (written.delimiter, written.decimal, written.skip_rows, written.encoding) == (";", ",", 2, "latin-1")
    assert (written.sampling_rate_hz, written.ignore, written.label.missing) == (50, ("Temp",), "drop")
    code, said = prepare("csv", raw, tmp_path / "out", "--columns", tmp_path / "map.yaml", "--window-s", "2")
    assert code == 0, said
    rows = load_dataset("parquet", data_dir=str(tmp_path / "out"), split="train")
    np.testing.assert_allclose(np.array(rows[0]["input_values"])[:, 2], values[100:200, 2], atol=1e-4)
    code, said = prepare("inspect", raw / "anna_1.csv", "--output", tmp_path / "map.yaml")
    assert (code, "is there already" in said) == (2, True)


def test_inspect_recognises_units_packets_and_rest(tmp_path):
    time, values = _walk(100, 300)
    values[9000:21000] = [0.0, 0.0, 9.0]
    packets = pd.DataFrame({"epoch_ms": (1e12 + 1000 * time // 100 * 100), "ax": values[:, 0], "ay": values[:, 1],
                            "az": values[:, 2], "gx": 200 * np.sin(time), "gy": 0.0, "gz": 0.0})  # fmt: skip
    packets.to_parquet(tmp_path / "p.parquet")
    found = inspect(tmp_path / "p.parquet")
    made = found.column_map
    assert "repeats: spread" in made
    assert "sampling_rate_hz: 100.0" in made
    assert "unit: deg/s" in made
    assert "unit: m/s^2" in made
    assert found.facts["minutes without any motion (perhaps not worn)"] == "1 of 5"
    assert any("calibrate" in warning for warning in found.warnings)
    assert any("labels.csv" in warning for warning in found.warnings)
    packets.assign(ax=packets["ax"] * 37, ay=packets["ay"] * 37, az=packets["az"] * 37).to_csv(tmp_path / "c.csv")
    assert any("gravity in no unit here" in warning for warning in inspect(tmp_path / "c.csv").warnings)


def test_inspect_believes_a_unit_in_a_name_before_a_size(tmp_path):
    time, values = _walk(50, 60)
    calm = np.random.default_rng(0).standard_normal((len(time), 3))

    def found(unit):
        table = pd.DataFrame(values, columns=["acc_x", "acc_y", "acc_z"]).assign(time=time, activity="sit")
        rates = {f"gyro_{axis}{unit}": calm[:, place] for place, axis in enumerate("xyz")}
        table.assign(**rates).to_csv(tmp_path / "all.csv", index=False)
        looked = inspect(tmp_path / "all.csv")
        channels = yaml.safe_load(looked.column_map)["channels"]
        return channels["gyro_x"]["unit"], any("rad/s" in warning for warning in looked.warnings)

    assert found(" (deg/s)") == found(" [dps]") == ("deg/s", False)
    assert found(" rad/s") == ("rad/s", False)
    assert found("") == ("rad/s", True), "a device at rest in deg/s has such numbers too"
    calm *= 100
    assert found(" rad/s") == ("rad/s", True)


@pytest.mark.parametrize("name", ["subject", "subject (id)", "Subject_Index", "user_id"])
def test_inspect_knows_a_column_of_people(tmp_path, name):
    _, values = _walk(50, 20)
    table = pd.DataFrame(values, columns=["ax", "ay", "az"]).assign(label="walk")
    table.assign(**{name: np.sort(np.resize([1.0, 2.0, 3.0], len(table)))}).to_csv(tmp_path / "all.csv")
    assert yaml.safe_load(inspect(tmp_path / "all.csv").column_map)["subject"] == {"column": name}


def test_inspect_reads_labels_as_the_reader_does_and_takes_no_date_for_a_clock(prepare, tmp_path):
    _, values = _walk(50, 20)
    table = pd.DataFrame(values, columns=["userAcceleration.x", "ay", "az"])
    labels = np.resize(["walk", "nan", "null", "None", "NA"], len(table))
    table.assign(date="2024-05-31", label=np.sort(labels)).to_csv(tmp_path / "anna.csv", index=False)
    found = inspect(tmp_path / "anna.csv")
    assert "time" not in yaml.safe_load(found.column_map)
    assert any("'date' is 2024-05-31 throughout: no clock" in warning for warning in found.warnings)
    assert found.facts["rows without an activity"] == "600"
    assert "from_name" in yaml.safe_load(found.column_map)["subject"], "userAcceleration.x is no user"
    plain = table.rename(columns={"userAcceleration.x": "ax"}).assign(label=np.sort(labels))
    (tmp_path / "raw").mkdir()
    plain.to_csv(tmp_path / "raw" / "anna.csv", index=False)
    code, said = prepare("inspect", tmp_path / "raw" / "anna.csv", "--output", tmp_path / "map.yaml")
    assert code == 0, said
    (tmp_path / "map.yaml").write_text((tmp_path / "map.yaml").read_text().replace("hz: null", "hz: 50"))
    code, said = prepare(
        "csv", tmp_path / "raw", tmp_path / "out", "--columns", tmp_path / "map.yaml", "--window-s", "1"
    )
    assert (code, "null" in said, "nan" in said, "None" in said) == (0, True, False, False), said


def test_a_date_is_no_packet_and_what_lacks_a_channel_is_said(prepared, table):
    keys = {"time": "{column: t, unit: ms, repeats: spread}", "label": "{column: activity}"}
    days = pd.concat([table.assign(activity="walk", t=1_700_000_000_000)] * 7)
    assert "line 2: 1,260 samples have one time stamp, and no packet" in prepared({"anna.csv": days}, keys, 2)
    whole = table.assign(activity="walk")
    sparse = whole.assign(ay=whole["ay"].where(np.arange(len(whole)) % 4 == 0))
    said, _, card = prepared({"anna.csv": whole, "ben.csv": sparse}, MS)
    assert "warning: 37% of acc_y was not measured but filled" in said
    assert "% of acc_y is filled" in card
    said, *_ = prepared({"anna.csv": whole, "ben.csv": whole.assign(ay=np.nan, ax=1.0)}, MS)
    assert "1 recordings of ben lack acc_y: no window" in said
    assert "shorter than a window, left out: 0" in said
    paused = whole.assign(
        ay=whole["ay"].where(np.arange(len(whole)) % 30 < 12), ax=whole["ax"].where(np.arange(len(whole)) % 30 < 12)
    )
    said, *_ = prepared({"anna.csv": whole, "ben.csv": paused}, MS)
    assert "shorter than a window, left out: 1" in said, "pauses of all channels are those of no channel"


def test_inspect_refuses_what_is_no_recording(prepare, tmp_path):
    (tmp_path / "a.csv").write_text("")
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    (tmp_path / "a.docx").write_bytes(b"x")
    for name, said in {"a.csv": "is empty", "a.parquet": "cannot be read", "a.docx": "what can be read ends",
                       "b.csv": "no such file"}.items():  # fmt: skip
        code, message = prepare("inspect", tmp_path / name)
        assert (code, said in message) == (2, True), message


def test_labels_and_joined_sensors_are_those_of_the_repaired_times(prepared, table):
    packets = table.drop(columns="activity").assign(t=table["t"] // 500 * 500)  # ten samples a stamp
    start = int(table["t"][0])
    spans = pd.DataFrame(
        {"start": [start, start + 1300], "end": [start + 1300, start + 9000], "label": ["sit", "walk"]}
    )
    gyro = pd.DataFrame({"t": table["t"], "gx": table["ax"]})
    joined = '[{file: "{name}_gyro.csv", sampling_rate_hz: 20, channels: {gyro_x: {column: gx, unit: rad/s}}}]'
    keys = {"time": "{column: t, unit: ms, repeats: spread}", "joined": joined}
    keys["label"] = '{from_file: "{name}.labels.csv", missing: drop}'
    files = {"anna.csv": packets, "anna.labels.csv": spans, "anna_gyro.csv": gyro}
    _, rows, _ = prepared(files, keys)
    assert _places(rows)[:2] == [("sit", 0, 19), ("walk", 26, 45)]
    for _, _, values in rows:
        np.testing.assert_allclose(np.array(values)[:, 2], np.array(values)[:, 0], atol=1e-5)


def test_rows_that_are_dropped_keep_their_place_in_a_packet(prepared, table):
    packets = table.assign(t=table["t"] // 500 * 500, activity="sit")
    packets.loc[20:25, "activity"] = None
    keys = {"time": "{column: t, unit: ms, repeats: spread}", "label": "{column: activity, missing: drop}"}
    said, rows, _ = prepared({"anna.csv": packets}, keys, 0, "--max-gap-s", "0.1")
    assert "162 spread" in said
    assert _places(rows)[:2] == [("sit", 0, 19), ("sit", 26, 45)]


def test_whole_numbers_of_parquet_are_one_activity_and_one_person(prepared, table):
    number = table.assign(activity=np.where(np.arange(180) < 90, 1, 2), who=7)
    keys = MS | {"label": "{column: activity, missing: drop}", "subject": "{column: who}", "at_once": "keep"}
    floats = number.assign(activity=number["activity"].where(number.index >= 5), who=7.0)
    indexed = number.assign(t=number["t"].astype(float)).set_index("t")
    said, rows, _ = prepared({"a.parquet": number, "b.parquet": floats, "c.parquet": indexed}, keys)
    assert "of 1 subjects and 2 activities" in said
    assert re.search(r"windows by activity: [12] [\d,]+, [12] [\d,]+", said)
    assert {label for label, _, _ in rows} == {"1", "2"}


def test_clocks_that_were_set_are_no_late_samples(prepared, table):
    ahead = table.assign(activity="sit")
    ahead.loc[10, "t"] += 4_000_000_000
    keys = MS | {"time": "{column: t, unit: ms, backward: drop}"}
    assert "a clock was set, or another recording begins" in prepared({"anna.csv": ahead}, keys, 2)
    dates = table.assign(t=pd.to_datetime(table["t"], unit="ms"), activity="sit")
    assert "holds dates: write unit: iso" in prepared({"anna.parquet": dates}, MS, 2)
    twice = {"anna.csv": table.assign(activity="sit"), "anna.parquet": table.assign(activity="sit")}
    assert "are called the same" in prepared(twice, MS, 2)
    mixed = table.assign(activity="sit", t="2024-07-01T13:00:00+02:00")
    mixed.loc[3, "t"] = "2024-12-01T13:00:00+01:00"
    assert "leave zone out" in prepared(
        {"anna.csv": mixed}, MS | {"time": "{column: t, unit: iso, zone: Europe/Rome}"}, 2
    )


def test_edges_of_intervals_in_another_unit_are_exact(prepared, table):
    edges = [int(table["t"][0]) + 50 * 19 * n for n in range(10)]
    iso = [pd.Timestamp(edge, unit="ms").isoformat() for edge in edges]
    spans = pd.DataFrame({"start": iso[:-1], "end": iso[1:], "label": ["a", "b", "c"] * 3})
    label = '{from_file: "{name}.labels.csv", unit: iso, zone: UTC, missing: drop}'
    files = {"anna.csv": table.drop(columns="activity"), "anna.labels.csv": spans}
    _, rows, _ = prepared(files, MS | {"label": label}, 0, "--window-s", "0.95")
    assert [(a, b) for _, a, b in _places(rows)] == [(19 * n, 19 * n + 18) for n in range(9)]


def test_labels_of_a_clock_that_may_be_hours_off_are_refused(prepared, table):
    """A recording that says where it was taken, labels in local time: which is summer time, two hours ahead."""
    stamps = pd.to_datetime(table["t"], unit="ms", utc=True).dt.tz_convert("Europe/Vienna")
    local = stamps.dt.tz_localize(None)
    spans = pd.DataFrame({"start": [local[0], local[100]], "end": [local[60], local[170]], "label": ["walk", "sit"]})
    later = pd.DataFrame({"start": [local[179] + pd.Timedelta(hours=5)], "end": local[179] + pd.Timedelta(hours=6)})
    label = '{from_file: "{name}.labels.csv", missing: drop'
    iso = {"time": "{column: t, unit: iso}", "label": label + "}"}
    recording = table.drop(columns="activity")
    for times, keys, zone in (
        (stamps.map(lambda stamp: stamp.isoformat()), iso, iso | {"label": label + ", zone: Europe/Vienna}"}),
        (
            table["t"],
            MS | {"label": label + ", unit: iso}"},
            MS | {"label": label + ", unit: iso, zone: Europe/Vienna}"},
        ),
    ):
        files = {"anna.csv": recording.assign(t=times), "anna.labels.csv": spans}
        said = prepared(files, keys, 2)
        assert "anna.labels.csv: its times have no offset" in said
        assert "zone: Europe/Vienna, say, under label" in said
        _, rows, _ = prepared(files, zone)
        assert {label for label, *_ in rows} == {"walk", "sit"}
    naive = {"anna.csv": recording.assign(t=local.map(lambda stamp: stamp.isoformat())), "anna.labels.csv": spans}
    said, rows, _ = prepared(naive, iso)
    assert "hold no sample" not in said, "both say nothing: they may be of one clock"
    naive["anna.labels.csv"] = pd.concat([spans, later.assign(label="sit")])
    assert "1 intervals of labels hold no sample" in prepared(naive, iso)[0]
    wrong = iso | {"label": label + ", zone: Europe/Wien}"}
    assert "none of the tz database" in prepared(naive, wrong, 2)


def test_stamps_in_another_unit_are_refused_before_anyone_looks_for_rest(prepared, table):
    table["t"] *= 1_000_000
    channels = ", ".join(f"acc_{axis}: {{column: a{axis}, unit: g}}" for axis in "xyz")
    keys = {"time": "{column: t, unit: s}", "label": "{column: activity, missing: drop}", "still_min": "30"}
    keys |= {"channels": f"{{{channels}}}"}
    assert "Correct the unit of the time stamps" in prepared({"anna.csv": table.assign(az=1.0)}, keys, 2)
