"""What goes wrong in recordings of many days, phones and people must show, and never become an answer."""

import re

import numpy as np
import pandas as pd
import pytest

TIMES = {"time": "{column: t, unit: s}", "label": "{column: activity}"}
SPREAD = {"time": "{column: t, unit: s, repeats: spread}", "label": "{column: activity}"}
BESIDE = {"time": "{column: t, unit: s}", "label": '{from_file: "labels/{name}.csv", missing: drop}'}


def _swing(samples, times=None, hz=1.5):
    """A sine at 20 samples a second, gravity in the other channel."""
    place = np.arange(samples) / 20
    return pd.DataFrame({
        "t": place if times is None else times, "ax": np.sin(2 * np.pi * hz * place), "ay": 9.8, "activity": "walk"
    })  # fmt: skip


def _joined(rows, channel=0):
    return np.concatenate([np.array(values)[:, channel] for _, _, values in rows])


@pytest.mark.parametrize("held", ["fifth", "second", "burst"])
def test_a_packet_that_came_late_gets_its_own_times_back(prepared, held):
    """Arrival stamps, packets of ten; some came only just before the next one, which says when they were due."""
    packet = np.arange(1200) // 10
    late = {"fifth": packet % 5 == 3, "second": packet % 2 == 1, "burst": packet % 20 > 14}[held]
    due = packet // 20 * 20 + 20 if held == "burst" else packet + 1
    times = np.where(late, due / 2 - 0.02 + 0.001 * (packet % 20 - 15), packet / 2)
    said, rows, _ = prepared({"anna.csv": _swing(1150, times[:1150])}, SPREAD)
    assert "moved back, their packet came late" in said
    assert len(rows) == 57
    np.testing.assert_allclose(_joined(rows)[20:], np.sin(2 * np.pi * 1.5 * np.arange(1140) / 20)[20:], atol=0.06)


def test_packets_that_come_in_time_are_not_moved(prepared):
    packet = np.arange(600) // 10
    wander = np.random.default_rng(0).uniform(0, 0.1, 60)[packet]  # of half a second
    said, _, _ = prepared({"anna.csv": _swing(600, packet / 2 + wander)}, SPREAD)
    assert "moved back" not in said
    assert "540 spread" in said


def test_a_faster_sensor_brings_no_motion_that_nobody_made(prepared):
    """19 swings a second are too fast for 20 samples: without a filter they are one slow swing a second."""
    place = np.arange(2400) / 200
    keys = TIMES | {"joined": '[{file: "{name}_turns.csv", sampling_rate_hz: 200, channels: {gyro_z: '
                              "{column: gz, unit: rad/s}}}]"}  # fmt: skip
    for hz, within in ((19, 0.03), (3, 0.01)):
        turns = pd.DataFrame({"t": place, "gz": np.sin(2 * np.pi * hz * place)})
        _, rows, _ = prepared({"anna.csv": _swing(240), "anna_turns.csv": turns}, keys)
        found = _joined(rows, 2)[20:-20]
        slow = 0 if hz == 19 else np.sin(2 * np.pi * hz * np.arange(20, 220) / 20)
        np.testing.assert_allclose(found, slow * np.ones(200), atol=within)


def test_some_times_with_an_offset_and_some_without_are_refused(prepared, monkeypatch):
    stamps = pd.date_range("2024-05-31T13:00", periods=100, freq="50ms").strftime("%Y-%m-%dT%H:%M:%S.%f").to_series()
    stamps.iloc[60:] += "+02:00"
    keys = TIMES | {"time": "{column: t, unit: iso}"}
    for piece, line in ((50_000, 62), (7, 63)):  # the first of its piece, or of the file
        monkeypatch.setattr("data_prep.mapped_files._ROWS_AT_ONCE", piece)
        said = prepared({"anna.csv": _swing(100, stamps.to_numpy())}, keys, 2)
        assert re.search("anna.csv, line 6[2-5].*offset.*Give all of them one", said), (line, said)
    labels = "start,end,label\n2024-05-31T13:00:00+02:00,2024-05-31T13:00:02+02:00,walk\n"
    labels += "2024-05-31T13:00:03,2024-05-31T13:00:04,sit\n"
    plain = _swing(100, stamps.str[:26].to_numpy() + np.array("+02:00")).drop(columns="activity")
    said = prepared({"anna.csv": plain, "labels/anna.csv": labels}, BESIDE | {"time": "{column: t, unit: iso}"}, 2)
    assert "labels/anna.csv, line 3, column 'start'" in said


def test_a_file_that_gives_nothing_is_named(prepared):
    """Labels in a folder of their own; those of one recording are two hours off."""
    plain = _swing(100).drop(columns="activity")
    files = {
        "anna.csv": plain, "ben.csv": plain.assign(ax=1.0), "labels/anna.csv": "start,end,label\n0,5,walk\n",
        "labels/ben.csv": "start,end,label\n7200,7205,sit\n",
    }  # fmt: skip
    said, rows, card = prepared(files, BESIDE)
    assert len(rows) == 5
    for told in (said, card):
        assert "file without a labelled sample: ben.csv" in told
        assert "intervals of labels hold no sample" in told
    alone = {name: content for name, content in files.items() if "ben" in name}
    said = prepared(alone, BESIDE, 2)
    assert "nothing to write" in said
    assert "file without a labelled sample: ben.csv" in said
    said, _, _ = prepared({"anna.csv": _swing(100), "ben.csv": "t,ax,ay,activity\n"}, TIMES)
    assert "file without a labelled sample: ben.csv" in said


def test_copies_are_refused_and_hidden_folders_left_out(prepared):
    table = _swing(100)
    said = prepared({"anna.csv": table, "ben.csv": table}, TIMES, 2)
    assert "anna.csv and" in said
    assert "ben.csv hold the same bytes: is this one recording twice?" in said
    _, rows, _ = prepared({"anna.csv": table, ".ipynb_checkpoints/anna-checkpoint.csv": table}, TIMES)
    assert len(rows) == 5


def test_one_person_written_in_several_ways_is_one_or_is_told(prepared):
    names = ["1", "1.0", "01", "Zo\u00eb", "Zoe\u0308", "zo\u00eb"]
    files = {f"f{place}.csv": _swing(100 + place).assign(who=name) for place, name in enumerate(names)}
    said, _, card = prepared(files, TIMES | {"subject": "{column: who}"})
    assert "windows by subject: 01 5, 1 10, Zo\u00eb 10, zo\u00eb 5" in card
    assert "warning: '01' and '1' are almost the same" in said
    assert "warning: 'Zo\u00eb' and 'zo\u00eb' are almost the same" in said


def test_one_recording_in_another_unit_is_refused_beside_longer_right_ones(prepared):
    keys = TIMES | {"channels": "{acc_x: {column: ax, unit: m/s^2}, acc_y: {column: ay, unit: m/s^2}, "
                                "acc_z: {column: az, unit: m/s^2}}"}  # fmt: skip
    right = _swing(400).assign(az=0.1)
    wrong = _swing(300).assign(az=0.1, ay=1.0)
    said = prepared({"anna1.csv": right, "anna2.csv": wrong}, keys, 2)
    assert "in the median window of recording anna2-anna" in said
    assert "data that are in g declared as m/s^2" in said
