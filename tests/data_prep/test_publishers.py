"""Each data set, from a tree in the publisher's format to what load_dataset reads."""

import shutil
import sys
import zipfile

import numpy as np
import pytest
import trees
from datasets import load_dataset
from scipy.io import savemat

from data_prep.__main__ import main
from data_prep.readers.catalogue import READERS
from har_prune.data.load import load_data

G = 9.80665
ALL = [(name, info.name) for name, reader in READERS.items() for info in reader.infos]


def _arguments(name, info, raw, out):
    config = ["--config", info] if len(READERS[name].infos) > 1 else []
    return [name, raw, out, *config]


def test_every_data_set_has_a_tree():
    assert set(trees.TREES) == set(READERS)


@pytest.mark.parametrize(("name", "info"), ALL)
def test_from_the_publishers_files_to_load_dataset(name, info, prepare, tmp_path):
    raw, out = trees.TREES[name](tmp_path / "raw"), tmp_path / "out"
    code, said = prepare(*_arguments(name, info, raw, out))
    assert code == 0, said
    described = next(s for s in READERS[name].infos if s.name == info)
    for table in load_dataset(str(out)).values():
        row = table.with_format("numpy")[0]
        size = round(described.window_s * described.sampling_rate_hz)
        assert row["input_values"].shape == (size, len(described.channels))
        assert np.isfinite(row["input_values"]).all()
        assert table.features["label"].names == list(described.activities)
    data = load_data(str(out))
    assert data.sensor["sampling_rate_hz"] == described.sampling_rate_hz
    assert data.sensor["units"] == list(described.units)
    assert {path.name for path in tmp_path.iterdir()} == {"raw", "out"}, "nothing else is left"


@pytest.mark.parametrize(("name", "info"), ALL)
def test_the_archive_gives_the_same_as_the_folder(name, info, prepare, tmp_path):
    raw = trees.TREES[name](tmp_path / "raw")
    shutil.make_archive(str(tmp_path / "inner"), "zip", raw)
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as outer:  # as UCI packs some of them
        outer.write(tmp_path / "inner.zip", "inner.zip")
    for number, files in enumerate((raw, tmp_path / "inner.zip", tmp_path / "outer.zip")):
        more = ["--num-proc", 2] if number == 1 else []
        code, said = prepare(*_arguments(name, info, files, tmp_path / f"out{number}"), *more)
        assert code == 0, said
    first, *others = (load_data(str(tmp_path / f"out{number}")) for number in range(3))
    for other in others:
        assert np.array_equal(first.values, other.values)
        assert np.array_equal(first.trials, other.trials)


def _windows(name, prepare, tmp_path, *arguments, tree=None):
    raw = (tree or trees.TREES[name])(tmp_path / "raw")
    code, said = prepare(name, raw, tmp_path / "out", *arguments)
    assert code == 0, said
    return load_data(str(tmp_path / "out")), said


def test_units_are_physical(prepare, tmp_path):
    wrist, _ = _windows("utd_mhad", prepare, tmp_path / "utd", "--config", "utd_mhad1")
    assert wrist.values[0, 0] == pytest.approx([G, 0, -G / 2, np.pi, 0, -np.pi / 2])
    phone, _ = _windows("uci_har", prepare, tmp_path / "uci")
    assert phone.values[0, 0] == pytest.approx([G / 2] * 3 + [0.5] * 3 + [G / 2] * 3)
    hip, _ = _windows("usc_had", prepare, tmp_path / "usc")
    assert hip.values[0, 0] == pytest.approx([G, 0, 0, 0, 0, np.pi])
    three, _ = _windows("mhealth", prepare, tmp_path / "mhealth")
    assert three.values[0, 0, 0] == pytest.approx(-9.8)
    assert three.values[0, 0, 6] == pytest.approx(np.pi / 2), "the ankle's angular rate, degrees a second"
    assert three.values[0, 0, 12:] == pytest.approx([np.pi / 4, 0, 0]), "the wrist's, not its magnetic field"
    body, _ = _windows("pamap2", prepare, tmp_path / "pamap2")
    assert body.values[0, 0, 6] == pytest.approx(9.81), "the chest at 16 g"


def test_utd_mhad_has_two_placements_and_both_together(prepare, tmp_path):
    wrist, _ = _windows("utd_mhad", prepare, tmp_path / "1", "--config", "utd_mhad1")
    thigh, _ = _windows("utd_mhad", prepare, tmp_path / "2", "--config", "utd_mhad2")
    assert {wrist.label_names[i] for i in wrist.labels} == {"swipe_left", "pickup_and_throw"}
    assert {thigh.label_names[i] for i in thigh.labels} == {"jog", "squat"}
    code, said = prepare("utd_mhad", tmp_path / "1" / "raw", tmp_path / "out")
    assert (code, "needs --config, one of utd_mhad1, utd_mhad2, utd_mhad" in said) == (2, True)
    together, _ = _windows("utd_mhad", prepare, tmp_path / "3", "--config", "utd_mhad", "--window-s", "1")
    assert len(together.labels) == len(wrist.labels) + len(thigh.labels)
    assert {together.label_names[i] for i in together.labels} == {"swipe_left", "pickup_and_throw", "jog", "squat"}
    assert len(together.label_names) == 27


def test_uci_har_keeps_its_windows_and_its_split(prepare, tmp_path):
    data, said = _windows("uci_har", prepare, tmp_path)
    assert "4 train, 2 test windows" in said
    assert {split: set(data.subjects[data.splits == split]) for split in ("train", "test")} == {
        "train": {"s01", "s03"}, "test": {"s02"},
    }  # fmt: skip
    assert len(set(data.trials)) == 4, "a run of one subject and activity is a trial"
    code, said = prepare("uci_har", tmp_path / "raw", tmp_path / "other", "--window-s", "5")
    assert (code, "published as windows of 2.56 s" in said) == (2, True)


def test_wisdm_quirks_are_read_through(prepare, tmp_path):
    data, _ = _windows("wisdm", prepare, tmp_path, "--window-s", "2")
    assert set(data.subjects) == {"u17", "u33"}
    jogging = data.values[data.subjects == "u33"]
    assert len(jogging) == 5, "120 samples without a cut: windows of 40, a new one every 20"
    assert jogging[0, 0] == pytest.approx([-0.69, 12.68, 0.50])
    walking = (data.subjects == "u17") & (data.labels == data.label_names.index("Walking"))
    assert len(data.values[walking]) == 2 * 4, "cut where the time stamp is 0; one value is filled in"


def test_wisdm_recordings_at_another_rate_are_left_out_and_counted(prepare, tmp_path):
    data, said = _windows("wisdm", prepare, tmp_path, "--window-s", "2")
    assert "1 recordings of u05 were left out: their time stamps say another sampling rate" in said
    assert "by their time stamps, left out: u05 1" in (tmp_path / "out" / "README.md").read_text()
    assert "u05" not in data.subjects
    sitting = data.values[data.labels == data.label_names.index("Sitting")]
    assert len(sitting) == 4
    steps = np.arange(41)
    drawn = np.interp(steps[:40], steps + (steps % 3 == 1) * 0.14, steps % 5)
    assert sitting[0, :, 0] == pytest.approx(drawn, abs=1e-6), "each sample at its time"
    path = tmp_path / "raw" / "WISDM_ar_v1.1_raw.txt"
    path.write_text("".join(line for line in path.open() if line.startswith("5,")))
    code, said = prepare("wisdm", tmp_path / "raw", tmp_path / "none")
    assert (code, "1 were left out: not at 20 Hz" in said) == (2, True), said


def test_pamap2_gaps_are_filled_or_cut_and_transients_left_out(prepare, tmp_path):
    data, said = _windows("pamap2", prepare, tmp_path, "--window-s", "2", "--overlap", "0")
    assert "cuts at gaps: 2" in said
    walking = data.labels == data.label_names.index("walking")
    assert walking.sum() == 2 * 3, "7 s in one piece: a tenth of a second is filled"
    jumping = data.labels == data.label_names.index("rope_jumping")
    assert jumping.sum() == 2 * (1 + 1), "3 s and 3 s around a second without the hand"
    assert len(data) == walking.sum() + jumping.sum()


def test_mhealth_leaves_the_null_class_out(prepare, tmp_path):
    data, _ = _windows("mhealth", prepare, tmp_path)
    assert {data.label_names[i] for i in data.labels} == {"standing", "jump_front_and_back"}
    assert set(data.subjects) == {"s01", "s10"}


def test_usc_had_may_be_wrapped_in_a_struct(prepare, tmp_path):
    plain, _ = _windows("usc_had", prepare, tmp_path / "plain")
    wrapped, _ = _windows("usc_had", prepare, tmp_path / "wrapped", tree=lambda r: trees.usc_had(r, wrapped=True))
    assert np.array_equal(plain.values, wrapped.values)


def test_another_rate_is_resampled(prepare, tmp_path):
    data, _ = _windows("usc_had", prepare, tmp_path, "--sampling-rate-hz", "50", "--window-s", "2")
    assert data.values.shape[1:] == (100, 6)
    assert data.sensor["sampling_rate_hz"] == 50
    assert data.values[0, :, 0] == pytest.approx(np.full(100, G), rel=1e-3), "gravity does not ring at the ends"


_BROKEN = {
    "wharf": ("Data/Walk/*m2.txt", "line 3", "is not three integers"),
    "uci_har": ("UCI HAR Dataset/train/Inertial Signals/body_gyro_z_train.txt", "line 3", "instead of 128"),
    "wisdm": ("*.txt", "line 3", "is not user,activity,timestamp,x,y,z"),
    "pamap2": ("PAMAP2_Dataset/Protocol/subject102.dat", "line 3", "instead of 54"),
    "mhealth": ("MHEALTHDATASET/mHealth_subject10.log", "line 3", "instead of 24"),
}


@pytest.mark.parametrize("name", _BROKEN)
def test_a_broken_line_is_named(name, prepare, tmp_path):
    pattern, place, message = _BROKEN[name]
    raw = trees.TREES[name](tmp_path / "raw")
    (path,) = raw.glob(pattern)
    lines = path.read_text().splitlines()
    lines[2] = "12 13"
    path.write_text("\n".join(lines))
    code, said = prepare(name, raw, tmp_path / "out")
    assert code == 2
    assert path.name in said
    assert place in said
    assert message in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["raw"], "nothing half-written"


@pytest.mark.parametrize(("name", "pattern"), [("utd_mhad", "*/a1_s1*.mat"), ("usc_had", "*/Subject1/a1t1.mat")])
def test_damaged_matlab_files_are_named(name, pattern, prepare, tmp_path):
    raw = trees.TREES[name](tmp_path / "raw")
    (path,) = raw.glob(pattern)
    arguments = _arguments(name, READERS[name].infos[0].name, raw, tmp_path / "out")
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"no mat file", b""):
        path.write_bytes(content)
        code, said = prepare(*arguments)
        assert (code, path.name in said, "damaged" in said) == (2, True, True), said
    savemat(path, {"something": np.ones(3)})
    code, said = prepare(*arguments)
    assert (code, "has no variable" in said, "something" in said) == (2, True, True), said


_UNKNOWN = {
    "uci_har": ("UCI HAR Dataset/test/y_test.txt", lambda line: "9", "activity 9 is not 1 to 6"),
    "wisdm": ("*.txt", lambda line: line.replace("Jogging", "Flying"), "activity 'Flying' is none of"),
    "mhealth": ("*/mHealth_subject1.log", lambda line: line[:-1] + "13", "activity 13 is not 0 to 12"),
    "pamap2": ("*/*/subject101.dat", lambda line: line.replace(" 0.00 ", " 99.00 ", 1), "activity 99"),
}


@pytest.mark.parametrize("name", _UNKNOWN)
def test_an_activity_nobody_documented_is_named(name, prepare, tmp_path):
    pattern, change, message = _UNKNOWN[name]
    raw = trees.TREES[name](tmp_path / "raw")
    (path,) = raw.glob(pattern)
    first, *others = path.read_text().splitlines()
    path.write_text("\n".join([change(first), *others]) + "\n")
    code, said = prepare(name, raw, tmp_path / "out")
    assert (code, "line 1" in said, message in said) == (2, True, True), said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[:5] + t[6:7] + t[5:6] + t[7:], "line 7: the time stamp goes back"),
        (lambda t: [*t[:5], t[5], *t[5:]], "line 7: the time stamp repeats"),
        (lambda t: t[::2], "sampled at 50 Hz, and this data set is at 100 Hz"),
    ],
    ids=["backwards", "twice", "another rate"],
)
def test_time_stamps_are_checked(change, message, prepare, tmp_path):
    raw = trees.pamap2(tmp_path / "raw")
    path = raw / "PAMAP2_Dataset" / "Protocol" / "subject101.dat"
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")
    code, said = prepare("pamap2", raw, tmp_path / "out")
    assert (code, message in said) == (2, True), said


def test_archives_that_are_damaged_or_reach_outside_are_refused(prepare, tmp_path):
    trees.wharf(tmp_path / "raw")
    shutil.make_archive(str(tmp_path / "whole"), "zip", tmp_path / "raw")
    whole = (tmp_path / "whole.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    code, said = prepare("wharf", tmp_path / "cut.zip", tmp_path / "out")
    assert (code, "neither a folder nor a whole .zip" in said) == (2, True)
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("../../evil.txt", "x")
    code, said = prepare("wharf", tmp_path / "evil.zip", tmp_path / "out")
    assert (code, "'../../evil.txt' points outside" in said) == (2, True)
    assert not list(tmp_path.parent.glob("evil.txt"))
    assert not (tmp_path / "out").exists()


def test_archives_with_odd_or_damaged_entries(prepare, tmp_path):
    raw = trees.wharf(tmp_path / "raw")
    shutil.make_archive(str(tmp_path / "whole"), "zip", raw)
    with zipfile.ZipFile(tmp_path / "whole.zip", "a") as archive:
        archive.writestr("./", "")
    code, said = prepare("wharf", tmp_path / "whole.zip", tmp_path / "out")
    assert code == 0, said
    content = bytearray((tmp_path / "whole.zip").read_bytes())
    with zipfile.ZipFile(tmp_path / "whole.zip") as archive:
        entry = max(archive.infolist(), key=lambda entry: entry.compress_size)
    start = entry.header_offset + 30 + len(entry.filename)
    content[start : start + 20] = b"\xff" * 20  # no block of deflate begins so
    (tmp_path / "damaged.zip").write_bytes(content)
    code, said = prepare("wharf", tmp_path / "damaged.zip", tmp_path / "other")
    assert (code, "damaged.zip is damaged (Error -3" in said) == (2, True), said


def test_archives_larger_than_the_disk_are_refused_and_state_no_less_than_they_hold(prepare, tmp_path, monkeypatch):
    raw = trees.wharf(tmp_path / "raw")
    shutil.make_archive(str(tmp_path / "whole"), "zip", raw)
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("shutil.disk_usage", lambda _: usage._replace(free=10_000))
        code, said = prepare("wharf", tmp_path / "whole.zip", tmp_path / "out")
    assert (code, "0.00 GiB are free beside OUT: make room" in said) == (2, True), said
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.txt", bytes(10_000_000))
    content = (tmp_path / "bomb.zip").read_bytes().replace((10_000_000).to_bytes(4, "little"), b"\x10\0\0\0")
    (tmp_path / "bomb.zip").write_bytes(content)
    code, said = prepare("wharf", tmp_path / "bomb.zip", tmp_path / "out")
    assert (code, "bomb.zip is damaged (Bad CRC-32" in said) == (2, True), said
    assert not (tmp_path / "out").exists()


def test_an_existing_data_set_is_replaced_only_when_the_new_one_is_whole(prepare, tmp_path):
    raw, out = trees.wharf(tmp_path / "raw"), tmp_path / "out"
    code, said = prepare("wharf", raw, out)
    assert code == 0, said
    former = (out / "README.md").read_text()
    code, said = prepare("wharf", raw, out, "--drop", "Walk")
    assert (code, "give --overwrite" in said) == (2, True)
    code, said = prepare("wharf", raw, out, "--overwrite", "--window-s", "60")
    assert (code, "no recording is as long" in said) == (2, True)
    assert (out / "README.md").read_text() == former, "nothing lost"
    code, said = prepare("wharf", raw, out, "--overwrite", "--drop", "Walk")
    assert code == 0, said
    assert (out / "README.md").read_text() != former
    assert {path.name for path in tmp_path.iterdir()} == {"raw", "out"}


@pytest.mark.parametrize("card", [None, "# My notes\n", "---\nlicense: mit\n---\n", "---\n{\n---\n"])
def test_a_folder_of_something_else_is_never_overwritten(card, prepare, tmp_path):
    raw, out = trees.wharf(tmp_path / "raw"), tmp_path / "Documents"
    out.mkdir()
    (out / "thesis.txt").write_text("years")
    if card:
        (out / "README.md").write_text(card)
    code, said = prepare("wharf", raw, out, "--overwrite")
    assert (code, "something else than a data set this tool wrote" in said) == (2, True), said
    assert (out / "thesis.txt").read_text() == "years"
    code, said = prepare("wharf", raw, out / "thesis.txt", "--overwrite")
    assert (code, (out / "thesis.txt").read_text()) == (2, "years"), said


def test_large_data_are_written_in_shards(prepare, tmp_path, monkeypatch):
    monkeypatch.setattr("data_prep.hub_folder._SHARD_BYTES", 20_000)
    data, _ = _windows("wharf", prepare, tmp_path)
    names = sorted(path.name for path in (tmp_path / "out" / "data").iterdir())
    assert names == [f"train-{number:05d}-of-{len(names):05d}.parquet" for number in range(len(names))]
    assert len(names) > 1
    assert len(data) == 16


def test_the_list_says_where_to_get_everything(prepare, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["data_prep", "list"])
    with pytest.raises(SystemExit):
        main()
    said = " ".join(capsys.readouterr().out.split())
    for reader in READERS.values():
        for info in reader.infos:
            assert info.name in said
            assert info.url in said
