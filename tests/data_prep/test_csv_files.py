"""Own recordings: CSV files and a map of their columns, to what load_dataset reads."""

import re

import numpy as np
import pytest
from datasets import load_dataset

from data_prep import column_map
from data_prep.column_map import ColumnMap, load_map
from data_prep.errors import PrepError
from har_prune.data.load import load_data

G = 9.80665

_MAP = """
title: My watch
sampling_rate_hz: 20
time: {column: t, unit: ms}
channels: {acc_x: {column: ax, unit: g}, gyro_x: {column: gx, unit: deg/s}}
label: {column: activity}
subject: {from_name: "(?P<subject>[a-z]+)_.*"}
"""


def _own(tmp_path, rows=None, header="t,ax,gx,activity"):
    raw = tmp_path / "raw"
    raw.mkdir(exist_ok=True)
    rows = rows or [f"{50 * n},1,180,{'walk' if n < 60 else 'sit'}" for n in range(120)]
    (raw / "anna_1.csv").write_text("\n".join([header, *rows]) + "\n")
    (tmp_path / "map.yaml").write_text(_MAP)
    return ["csv", raw, tmp_path / "out", "--columns", tmp_path / "map.yaml", "--window-s", "1"]


def test_own_recordings_are_read_by_a_column_map(prepare, tmp_path):
    rows = [f"{50 * n},1,180,{'walk' if n < 60 else 'sit'}" for n in range(120) if not 20 <= n < 40]
    code, said = prepare(*_own(tmp_path, rows))
    assert code == 0, said
    assert "cuts at gaps: 1" in said, "a second is missing"
    data = load_data(str(tmp_path / "out"))
    assert data.label_names == ["sit", "walk"]
    assert set(data.subjects) == {"anna"}
    assert data.values[0, 0] == pytest.approx([G, np.pi])
    assert len(data) == 5 + 1 + 1


def test_own_recordings_are_read_in_pieces(prepare, tmp_path, monkeypatch):
    """A file may be larger than memory: no edge of a piece, and no other process, changes a window."""
    pause_ms = 10**12  # of years: no gap to fill, nor to keep in memory
    rows = [f"{50 * n + pause_ms * (n > 90)},1,{n},{'walk' if 30 < n < 200 else 'sit'}" for n in range(300)]

    def windows(name, *options):
        _, raw, _, *arguments = _own(tmp_path, rows)
        code, said = prepare("csv", raw, tmp_path / name, *arguments, *options)
        assert code == 0, said
        return load_dataset("parquet", data_dir=str(tmp_path / name), split="train").to_dict()

    whole = windows("whole")
    first_samples = [round(np.degrees(values[0][1])) for values in whole["input_values"]]
    assert first_samples == [0, 10, *range(31, 72, 10), *range(91, 180, 10), *range(200, 281, 10)]
    assert whole["start_s"][7] == pytest.approx((pause_ms + 91 * 50) / 1000)
    monkeypatch.setattr("data_prep.mapped_files._ROWS_AT_ONCE", 7)
    monkeypatch.setattr("data_prep.window_tables._ROWS_AT_ONCE", 3)
    assert windows("pieces") == whole


def _turning(raw, name, rate_hz, seconds=4.0):
    """A person who turns to and fro once a second, sampled at some rate."""
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    rows = [f"{1000 * now},1,{90 * np.sin(2 * np.pi * now)},walk" for now in t]
    (raw / name).parent.mkdir(parents=True, exist_ok=True)
    (raw / name).write_text("\n".join(["t,ax,gx,activity", *rows]) + "\n")


def test_files_at_several_rates_become_windows_at_one(prepare, tmp_path):
    _, raw, out, *more = _own(tmp_path)
    (raw / "anna_1.csv").unlink()
    _turning(raw, "phone/anna_1.csv", 20)
    _turning(raw, "watch/anna_2.csv", 50)
    code, said = prepare("csv", raw, out, *more)
    assert code == 2
    assert "sampled at 50 Hz, and this data set is at 20 Hz" in said
    assert "other_rates" in said
    path = tmp_path / "map.yaml"
    path.write_text(_MAP + 'other_rates: {"watch/.*": 50}')
    code, said = prepare("csv", raw, out, *more)
    assert code == 0, said
    assert load_data(str(out)).sensor["sampling_rate_hz"] == 20
    windows = load_dataset("parquet", data_dir=str(out), split="train").to_dict()
    assert [name.split("/")[0] for name in windows["trial"]] == ["phone"] * 7 + ["watch"] * 7
    for values, start_s in zip(windows["input_values"], windows["start_s"], strict=True):
        turning = np.pi / 2 * np.sin(2 * np.pi * (start_s + np.arange(20) / 20))
        assert np.array(values)[2:-2, 1] == pytest.approx(turning[2:-2], abs=0.02), "what was measured then"
    path.write_text(_MAP + 'other_rates: {"wrist/.*": 50}')
    assert "no file is called like 'wrist/.*'" in prepare("csv", raw, tmp_path / "other", *more)[1]
    path.write_text(_MAP + 'other_rates: {"watch/.*": 50, ".*_2": 100}')
    assert "watch/anna_2 is at 50 and at 100 Hz" in prepare("csv", raw, tmp_path / "other", *more)[1]


_SHARED_MAP = """
sampling_rate_hz: 20
time: {column: t}
channels: {acc_x: {column: ax, unit: m/s^2}}
label: {column: activity}
subject: {column: user}
"""


@pytest.fixture
def several(tmp_path):
    """Two files of the same name, each of two people who do n/a and null; and the arguments that prepare them."""
    (tmp_path / "map.yaml").write_text(_SHARED_MAP)
    for folder in ("a", "b"):
        (tmp_path / "raw" / folder).mkdir(parents=True)
        rows = [f"{100 + n / 20},{n},{'n/a' if n < 30 else 'null'},null" for n in range(60)]
        rows += [f"{n / 20}, {n},n/a,eve" for n in range(21 + (folder == "b"))]
        (tmp_path / "raw" / folder / "x.csv").write_text("\n".join(["t, ax,activity,user", *rows]) + "\n")
    (tmp_path / "raw" / "a" / "._x.csv").write_text("what a Mac leaves behind")
    return ["csv", tmp_path / "raw", tmp_path / "out", "--columns", tmp_path / "map.yaml", "--window-s", "1"]


def test_own_recordings_of_several_people_and_files(prepare, several, tmp_path):
    code, said = prepare(*several)
    assert code == 0, said
    one = load_dataset("parquet", data_dir=str(tmp_path / "out"), split="train")
    assert sorted(set(one["trial"])) == ["a/x-eve", "a/x-null", "b/x-eve", "b/x-null"]
    names = load_data(str(tmp_path / "out")).label_names
    rows = set(zip(one["trial"], [names[label] for label in one["label"]], one["start_s"], strict=True))
    assert {("a/x-null", "n/a", 0.0), ("a/x-null", "null", 1.5), ("b/x-eve", "n/a", 0.0)} < rows, (
        "a clock for each person"
    )
    code, said = prepare(*several, "--overwrite", "--num-proc", "2")
    assert code == 0, said
    assert load_dataset("parquet", data_dir=str(tmp_path / "out"), split="train").to_dict() == one.to_dict()


def test_a_mistake_in_one_of_several_processes_is_named(prepare, several, tmp_path):
    for number in range(4):
        (tmp_path / "raw" / str(number)).mkdir()
        copy = (tmp_path / "raw" / "a" / "x.csv").read_text().replace("eve", f"eve{number}")
        (tmp_path / "raw" / str(number) / "x.csv").write_text(copy)
    (tmp_path / "raw" / "2" / "x.csv").write_text("t,ax,activity,user\n0,1,walk,eve\n0.05,one,walk,eve\n")
    code, said = prepare(*several, "--num-proc", "2")
    assert (code, "2/x.csv, line 3, column 'ax'" in said) == (2, True), said
    assert {path.name for path in tmp_path.iterdir()} == {"raw", "map.yaml"}


def test_what_is_read_is_never_replaced(prepare, several, tmp_path):
    command, raw, _, *others = several
    for out in (raw, tmp_path):
        code, said = prepare(command, raw, out, *others, "--overwrite")
        assert (code, "would be replaced: choose another OUT" in said) == (2, True), said
    assert (raw / "a" / "x.csv").exists()


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (None, "t,ax,gx,label", "missing columns: activity"),
        (["0,1,1,walk,3"], "t,ax,gx,activity,extra", "columns nobody mentioned: extra (name them under ignore)"),
        (["0,1,1,walk", "50,one,1,walk"], "t,ax,gx,activity", "line 3, column 'ax': 'one' is no finite number"),
        (["0,1,1,walk", "50,1,1,"], "t,ax,gx,activity", "line 3: no activity in column 'activity'"),
        (["0,1,1,walk", "50,1,1,NA"], "t,ax,gx,activity", "line 3: no activity in column 'activity'"),
        (["0,1,1,walk", "50,1,1,walk", "40,1,1,walk"], "t,ax,gx,activity", "line 4: the time stamp goes back"),
        (["0,1,1,walk", "50,1,1,walk", "50,1,1,walk"], "t,ax,gx,activity", "line 4: the time stamp repeats"),
        (["0,1,1,walk", "50,1,1,walk", "40,1,1,sit"], "t,ax,gx,activity", "line 4: the time stamp goes back"),
        (["0,1,1,walk", "50,1,1,walk", ",1,1,sit"], "t,ax,gx,activity", "line 4: the time stamp is missing"),
        (["0,1,1,walk", "50,inf,1,walk"], "t,ax,gx,activity", "line 3, column 'ax': 'inf' is no finite number"),
        (["0,1,1,walk", "50,1,5,1,walk"], "t,ax,gx,activity", "Expected 4 fields in line 3, saw 5"),
        (["0,1,5,1,walk", "50,1,5,1,walk"], "t,ax,gx,activity", "the first line below the header has more fields"),
        (["0,1,1,walk", "10,1,1,walk", "20,1,1,walk"], "t,ax,gx,activity", "sampled at 100 Hz"),
        ([f"{50_000_000 * n},1,1,walk" for n in range(9)], "t,ax,gx,activity", "Correct the unit of the time stamps"),
    ],
)
def test_own_recordings_with_mistakes_are_named(prepare, tmp_path, rows, header, message):
    code, said = prepare(*_own(tmp_path, rows, header))
    assert (code, message in said, "anna_1.csv" in said) == (2, True, True), said
    assert not (tmp_path / "out").exists()


def _prepared(prepare, folder, text, more, name="anna_1.csv"):
    (folder / "raw").mkdir(parents=True, exist_ok=True)
    (folder / "raw" / name).write_text(text)
    (folder / "map.yaml").write_text(_MAP + more)
    code, said = prepare("csv", folder / "raw", folder / "out", "--columns", folder / "map.yaml", "--window-s", "1")
    return load_data(str(folder / "out")).values if code == 0 else said


_SEMICOLONS = "exported by a watch\n\nt;ax;gx;activity\n" + "".join(
    f"{50 * n};{n / 10:g};180,5;walk\n".replace(".", ",") for n in range(40)
)


def test_a_file_of_another_layout_is_read_by_following_the_messages(prepare, tmp_path):
    rows = "".join(f"{50 * n},{n / 10:g},180.5,walk\n" for n in range(40))
    plain = _prepared(prepare, tmp_path / "plain", "t,ax,gx,activity\n" + rows, "")
    said = _prepared(prepare, tmp_path / "1", _SEMICOLONS, "skip_rows: 2\n")
    assert 'fields seem to be separated by ";", not ",": write delimiter: ";" in' in said
    said = _prepared(prepare, tmp_path / "1", _SEMICOLONS, 'skip_rows: 2\ndelimiter: ";"\n')
    assert "line 5, column 'ax': '0,1' is no finite number. Write decimal: ','" in said
    more = 'skip_rows: 2\ndelimiter: ";"\ndecimal: ","\n'
    assert np.array_equal(_prepared(prepare, tmp_path / "upper", _SEMICOLONS, more, "anna_1.CSV"), plain)
    said = _prepared(prepare, tmp_path / "2", _SEMICOLONS.replace(";0,2;", ";o;"), more)
    assert "line 6, column 'ax': 'o' is no finite number." in said, "not the first number with a comma"
    assert "delimiter and decimal are both ','" in _prepared(prepare, tmp_path / "2", _SEMICOLONS, 'decimal: ","\n')


def test_the_map_in_the_documentation_is_one(tmp_path):
    (tmp_path / "map.yaml").write_text(column_map.__doc__.partition("\n\n")[2])
    written = load_map(tmp_path / "map.yaml")
    assert set(ColumnMap.model_fields) - written.model_fields_set == {"license", "citation"}


def test_iso_time_stamps(prepare, tmp_path):
    map_ = _MAP.replace("unit: ms", "unit: iso")
    arguments = _own(tmp_path, [f"2024-05-31T23:59:{58 + n * 0.05:09.6f}+02:00,1,1,walk" for n in range(40)])
    (tmp_path / "map.yaml").write_text(map_)
    code, said = prepare(*arguments)
    assert code == 0, said
    assert load_data(str(tmp_path / "out")).values.shape == (3, 20, 2)
    for wrong in ("yesterday", ""):
        arguments = _own(tmp_path, ["2024-05-31 23:59:58.10,1,1,walk", f"{wrong},1,1,walk"])
        (tmp_path / "map.yaml").write_text(map_)
        code, said = prepare(*arguments, "--overwrite")
        assert (code, f"line 3, column 't': '{wrong}' is no ISO 8601 time" in said) == (2, True), said


def test_the_digits_that_differ_are_printed(prepare, tmp_path):
    code, said = prepare(*_own(tmp_path, ["1772440000050,1,1,walk"] * 2))
    assert (code, "repeats (1772440000.05 s, then 1772440000.05 s)" in said) == (2, True), said


def test_more_than_64_activities(prepare, tmp_path):
    code, said = prepare(*_own(tmp_path, [f"{50 * n},1,1,activity {n // 20:02d}" for n in range(2000)]))
    assert (code, "100 activities" in said) == (0, True), said
    assert len(load_data(str(tmp_path / "out")).label_names) == 100


def test_a_column_map_with_mistakes_says_all_of_them(prepare, tmp_path):
    arguments = _own(tmp_path)
    (tmp_path / "map.yaml").write_text(_MAP.replace("unit: g}", "unit: stones}").replace("title", "titel"))
    code, said = prepare(*arguments)
    assert code == 2
    for part in ("2 problem(s)", "channels.acc_x.unit", "titel"):
        assert part in said
    code, said = prepare(*arguments[:4], tmp_path / "nowhere.yaml")
    assert (code, "cannot be read" in said) == (2, True)


def test_the_former_key_licence_is_read_with_a_warning(tmp_path):
    path = tmp_path / "map.yaml"
    path.write_text(_MAP + "licence: mine\n")
    with pytest.warns(DeprecationWarning, match="licence is called license"):
        assert load_map(path).license == "mine"


def test_folders_may_say_who_and_what(prepare, tmp_path):
    for who, what in (("anna", "walk"), ("anna", "sit"), ("bo", "walk")):
        (tmp_path / "raw" / who / what).mkdir(parents=True)
        rows = "\n".join(f"{50 * n},{1 + len(who + what) / 100}" for n in range(40))
        (tmp_path / "raw" / who / what / "1.csv").write_text(f"t,ax\n{rows}\n")
    path = tmp_path / "map.yaml"
    path.write_text("""
sampling_rate_hz: 20
time: {column: t, unit: ms}
channels: {acc_x: {column: ax, unit: g}}
label: {from_path: "[^/]+/(?P<label>[^/]+)/[^/]+"}
subject: {from_path: "(?P<subject>[^/]+)/[^/]+/[^/]+"}
""")
    command = ["csv", tmp_path / "raw", tmp_path / "out", "--columns", path, "--window-s", "1"]
    code, said = prepare(*command)
    assert code == 0, said
    data = load_dataset("parquet", data_dir=str(tmp_path / "out"), split="train")
    names = load_data(str(tmp_path / "out")).label_names
    found = {(who, names[label]) for who, label in zip(data["subject"], data["label"], strict=True)}
    assert found == {("anna", "walk"), ("anna", "sit"), ("bo", "walk")}

    (tmp_path / "raw" / "notes.csv").write_text("t,ax\n0,1\n")
    (tmp_path / "raw" / "bo" / "walk" / "2.csv").write_text("t,a\n0,1\n")
    code, said = prepare(*command, "--overwrite")
    assert code == 2
    assert "notes.csv: 'notes' does not match subject.from_path" in said
    assert "2.csv: missing columns: ax" in said, "all flawed files at once"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("subject", '{from_path: "(?P<who>.*)"}', "from_path needs a group (?P<subject>...)"),
        ("subject", '{from_name: "(?P<subject>"}', "from_name is no regular expression"),
        ("subject", "{}", "give column, from_name or from_path, one of them"),
        ("subject", "{colum: user}", "subject.colum: unknown key; known here: column, from_name, from_path"),
        ("label", '{from_path: "(?P<label>.*)", missing: drop}', "missing is of rows without an activity"),
        ("label", '{from_path: "(?P<label>.*)", column: a}', "give column, from_file or from_path, one of them"),
        ("label", "{column: t}", "column 't' is read twice: one of the two is another column"),
        ("label", "{column: a}\nlabel: {column: b}", "key 'label' is given twice"),
    ],
)
def test_maps_with_mistakes_are_named(tmp_path, key, value, message):
    lines = [line for line in _SHARED_MAP.splitlines() if not line.startswith(key)]
    (tmp_path / "map.yaml").write_text("\n".join([*lines, f"{key}: {value}"]))
    with pytest.raises(PrepError, match=re.escape(message)):
        load_map(tmp_path / "map.yaml")


def test_samples_that_nobody_labelled_are_no_gap_to_fill(prepare, tmp_path):
    """They were measured: a line drawn over them, with the label of its ends, would be made up."""
    rows = [f"{50 * n},{5 if 40 <= n < 60 else 1},180,{'' if 40 <= n < 60 else 'walk'}" for n in range(120)]
    command = _own(tmp_path, rows)
    map_ = tmp_path / "map.yaml"
    map_.write_text(map_.read_text().replace("{column: activity}", "{column: activity, missing: drop}"))
    code, said = prepare(*command, "--max-gap-s", "3")
    assert code == 0, said
    starts = load_dataset("parquet", data_dir=str(tmp_path / "out"), split="train")["start_s"]
    assert [start for start in starts if 1.0 < start < 3.0] == [], starts
    assert 3.0 in starts
