"""Real recordings in the layouts of devices give the windows of the publisher's files."""

from dataclasses import replace
from datetime import datetime

import numpy as np
import pandas as pd
import pytest
from datasets import load_dataset
from geneactiv import write_geneactiv
from scipy.signal import resample_poly

from data_prep.readers.catalogue import READERS
from data_prep.recordings import Windowing
from data_prep.signals import STANDARD_GRAVITY

pytestmark = pytest.mark.data
_PAUSE_S = 120  # between two recordings of a file: a minute ends one
_START = pd.Timestamp("2024-05-31T13:00:00")


def _recordings(shared, name, folder, config, count, longest):
    """Some recordings of one subject, each of whole pages of 30 samples."""
    reader = READERS[name]
    info = next(info for info in reader.infos if info.name == config)
    found = []
    for part in reader.parts(shared / "data" / "raw" / folder, info):
        for one in reader.read(part, info):
            values = one.values[: min(len(one.values), longest) // 30 * 30]
            if len(values) >= 90 and not np.isnan(values).any() and (not found or one.subject == found[0].subject):
                found.append(type(one)(values, one.activity, one.subject, one.trial))
        if len(found) >= count:
            break
    assert len({one.activity for one in found}) >= 1
    return info, found[:count]


def _stamped(info, recordings):
    """One table of them all: seconds, channels in the publisher's units, activity."""
    parts, begin = [], 0.0
    for one in recordings:
        part = pd.DataFrame(one.values, columns=list(info.channels))
        parts.append(part.assign(s=begin + np.arange(len(part)) / info.sampling_rate_hz, activity=one.activity))
        begin = parts[-1]["s"].iloc[-1] + _PAUSE_S
    return pd.concat(parts, ignore_index=True)


def _expected(info, recordings):
    rows = Windowing(info, 2.0, 0.5).rows(recordings)
    return [(info.activities[row["label"]], row["input_values"]) for row in rows]


def _prepared(prepare, tmp_path, keys):
    (tmp_path / "map.yaml").write_text(keys)
    command = ["csv", tmp_path / "raw", tmp_path / "out", "--columns", tmp_path / "map.yaml", "--window-s", "2"]
    code, said = prepare(*command, "--overlap", "0.5", "--overwrite")
    assert code == 0, said
    rows = load_dataset("parquet", data_dir=str(tmp_path / "out"), split="train")
    return [(rows.features["label"].int2str(row["label"]), np.array(row["input_values"])) for row in rows]


def _equal(found, expected, within):
    assert [label for label, _ in found] == [label for label, _ in expected]
    assert len(found) > 20
    for (_, mine), (_, theirs) in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=within)


def _intervals(table):
    changes = (table["s"].diff() > 1).cumsum()
    spans = table.groupby(changes).agg(start=("s", "first"), end=("s", "last"), label=("activity", "first"))
    return spans.assign(end=spans["end"] + 0.5)


_ACC = "channels: {%s}\nsubject: {from_name: '(?P<subject>[a-z]+\\d*).*'}\n"


def test_wharf_as_a_logger_of_another_country_writes_it(shared, prepare, tmp_path):
    info, recordings = _recordings(shared, "wharf", "WHARF Data Set", "wharf", 8, 1500)
    table = _stamped(info, recordings)
    (tmp_path / "raw").mkdir()
    local = (_START + pd.to_timedelta(table["s"], unit="s")).dt.strftime("%d.%m.%Y %H:%M:%S.%f")
    lines = table.drop(columns="s").assign(Zeit=local)
    for channel in info.channels:
        lines[channel] = lines[channel] / STANDARD_GRAVITY * 1000
    (tmp_path / "raw" / "anna.CSV").write_bytes(
        ("Gerät: 7\n" + lines.to_csv(sep=";", decimal=",", index=False)).encode("latin-1")
    )
    found = _prepared(
        prepare,
        tmp_path,
        _ACC % ", ".join(f"{c}: {{column: {c}, unit: mg}}" for c in info.channels)
        + """
sampling_rate_hz: 32
time: {column: Zeit, unit: iso, format: "%d.%m.%Y %H:%M:%S.%f", zone: Europe/Rome}
label: {column: activity}
delimiter: ";"
decimal: ","
skip_rows: 1
encoding: latin-1
""",
    )
    _equal(found, _expected(info, recordings), 1e-3)  # stamps are cut to microseconds


def test_wharf_as_a_watch_sends_it_in_packets(shared, prepare, tmp_path):
    info, recordings = _recordings(shared, "wharf", "WHARF Data Set", "wharf", 8, 1500)
    table = _stamped(info, recordings)
    (tmp_path / "raw").mkdir()
    place = table.groupby((table["s"].diff() > 1).cumsum()).cumcount()
    stamp = table["s"] - (place % 6) / 32  # packets of six samples, all with the stamp of the first
    packets = table.drop(columns=["s", "activity"]).assign(ms=1.7e12 + 1000 * stamp)
    packets.to_parquet(tmp_path / "raw" / "anna.parquet")
    spans = _intervals(table)
    spans[["start", "end"]] = 1.7e12 + 1000 * spans[["start", "end"]]
    spans.to_csv(tmp_path / "raw" / "anna.labels.csv", index=False)
    channels = ", ".join(f"{c}: {{column: {c}, unit: m/s^2}}" for c in info.channels)
    found = _prepared(
        prepare,
        tmp_path,
        _ACC % channels
        + """
sampling_rate_hz: 32
time: {column: ms, unit: ms, repeats: spread}
label: {from_file: "{name}.labels.csv", missing: drop}
""",
    )
    _equal(found, _expected(info, recordings), 0.02)  # a ten-thousandth of a step off the grid, times the largest jerk


def test_wharf_as_a_devices_own_file(shared, prepare, tmp_path):
    info, recordings = _recordings(shared, "wharf", "WHARF Data Set", "wharf", 8, 1500)
    (tmp_path / "raw").mkdir()
    rate, rows, values, spans = 32.0, 0, [], []
    for one in recordings:  # the device never pauses: what is in no interval was nobody's activity
        spans.append((rows / rate, (rows + len(one.values)) / rate, one.activity))
        still = np.tile([0.0, 0.0, 1.0], (4 * 300 - len(one.values) % 300, 1))
        values += [one.values / STANDARD_GRAVITY, still]
        rows += len(one.values) + len(still)
    write_geneactiv(tmp_path / "raw" / "anna.bin", np.concatenate(values), rate, datetime(2024, 5, 31, 13))
    table = pd.DataFrame(spans, columns=["start", "end", "label"])
    for name in ("start", "end"):
        seconds = table[name] - 0.25 / rate  # between two samples: the clock of the file is in milliseconds
        table[name] = (_START + pd.to_timedelta(seconds, unit="s")).dt.strftime("%Y-%m-%dT%H:%M:%S.%f")
    table.to_csv(tmp_path / "raw" / "anna.labels.csv", index=False)
    channels = ", ".join(f"{c}: {{column: {c}, unit: g}}" for c in info.channels)
    found = _prepared(
        prepare,
        tmp_path,
        _ACC % channels
        + """
sampling_rate_hz: 32
time: {column: time, unit: ns}
label: {from_file: "{name}.labels.csv", unit: iso, missing: drop}
""",
    )
    _equal(found, _expected(info, recordings), 0.5 / 256 * STANDARD_GRAVITY + 0.03)  # the device's resolution


def test_utd_mhad_with_its_gyroscope_in_a_faster_file_of_its_own(shared, prepare, tmp_path):
    info, recordings = _recordings(shared, "utd_mhad", "UTD-MHAD", "utd_mhad2", 12, 10_000)
    table = _stamped(info, recordings)
    (tmp_path / "raw").mkdir()
    acc, gyro = [c for c in info.channels if c.startswith("acc")], [c for c in info.channels if c.startswith("gyro")]
    table[[*acc, "s", "activity"]].to_csv(tmp_path / "raw" / "anna.csv", index=False)
    parts, slowed = [], []
    for (_, part), one in zip(table.groupby((table["s"].diff() > 1).cumsum()), recordings, strict=True):
        time = np.arange(part["s"].iloc[0], part["s"].iloc[-1] + 0.002, 0.01)
        parts.append(pd.DataFrame({"s": time} | {c: np.interp(time, part["s"], np.degrees(part[c])) for c in gyro}))
        turns = np.radians(resample_poly(parts[-1][gyro].to_numpy(), 1, 2, padtype="line"))
        slowed.append(replace(one, values=np.concatenate([part[acc].to_numpy(), turns], axis=1)))
    pd.concat(parts).to_csv(tmp_path / "raw" / "anna_gyro.csv", index=False)
    turns = ", ".join(f"{c}: {{column: {c}, unit: deg/s}}" for c in gyro)
    joined = '[{file: "{name}_gyro.csv", sampling_rate_hz: 100, channels: {' + turns + "}}]"
    channels = ", ".join(f"{c}: {{column: {c}, unit: m/s^2}}" for c in acc)
    found = _prepared(
        prepare,
        tmp_path,
        _ACC % channels
        + f"""
sampling_rate_hz: {info.sampling_rate_hz:g}
time: {{column: s, unit: s}}
label: {{column: activity}}
joined: {joined}
""",
    )
    assert info.channels == (*acc, *gyro)
    _equal(found, _expected(info, slowed), 1e-3)
