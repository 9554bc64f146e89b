"""From a recording to a timeline, against what is worked out by hand."""

import json
import re
import warnings
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
import torch
from console import refused
from families import har_resnet
from typer.testing import CliRunner

from har_prune import HarFeatureExtractor, HarPipeline, HarStream, export_model, save_pruned
from har_prune.commands.app import app
from har_prune.errors import CheckpointError, DataError
from har_prune.exporters.export import FORMATS

FORMATS_HERE = ["onnx", *(["executorch"] if find_spec("executorch") else [])]
FACTS = {
    "labels": ["sit", "walk"], "sampling_rate_hz": 10.0, "channels": ["acc_x", "acc_y", "acc_z"],
    "units": ["m/s^2"] * 3, "window_size": 10, "window_s": 1.0, "hop_s": 0.5,
}  # fmt: skip


def _louder(inputs):
    """Walks where the mean of the first channel is above 0; by how much is its probability."""
    windows, mask = inputs["windows"], inputs["mask"]
    mean = (windows[..., 0] * mask).sum(1) / mask.sum(1)
    walk = 1 / (1 + np.exp(-mean))
    chances = np.stack([1 - walk, walk], 1)
    return np.log(chances), chances


def _recording(*parts):
    """Seconds of one level after the other, at 10 Hz."""
    level = np.concatenate([np.full(round(10 * seconds), value, dtype=float) for seconds, value in parts])
    return np.stack([level, np.zeros_like(level), np.full_like(level, 9.8)], 1)


@pytest.fixture
def pipeline():
    return HarPipeline(_louder, FACTS)


def test_activities_follow_each_other_and_probabilities_are_means_of_windows(pipeline):
    timeline = pipeline(_recording((4, -3.0), (4, 3.0)))
    assert [(s.label, s.start_s) for s in timeline.segments] == [("sit", 0.0), ("walk", 4.0)]
    assert timeline.segments[-1].end_s == 8.0
    assert timeline.starts_s.tolist() == [0.5 * n for n in range(15)]
    # The pieces of sitting: seven of two windows at -3, and the last, which a window across the change covers too.
    sure, half = 1 - 1 / (1 + np.exp(3)), 0.5
    pieces = [sure] * 7 + [(sure + half) / 2]
    assert timeline.segments[0].probability == pytest.approx(np.mean(pieces), abs=1e-6)
    assert timeline.to_frame().columns.tolist() == ["start_s", "end_s", "label", "probability"]


@pytest.mark.parametrize("hop", [1, 3, 4, 7, 9, 10])
def test_every_sample_is_given_the_mean_of_the_windows_that_cover_it(pipeline, hop):
    recording = _recording((3, -3.0), (1.2, 1.0), (2.5, -1.5), (3.6, 3.0))  # whatever the hop, no window ends there
    timeline = pipeline(recording, hop_s=hop / 10)
    middles = (np.arange(len(recording)) + 0.5) / 10
    covering = np.abs(middles[:, None] - timeline.starts_s - 0.5) < 0.5
    means = covering @ timeline.probabilities / covering.sum(1, keepdims=True)
    said = [next(s for s in timeline.segments if s.start_s < middle < s.end_s) for middle in middles]
    assert [pipeline.labels.index(s.label) for s in said] == means.argmax(1).tolist()
    for segment in timeline.segments:
        inside = (segment.start_s < middles) & (middles < segment.end_s)
        assert segment.probability == pytest.approx(means.max(1)[inside].mean())


def test_the_end_is_looked_at_and_every_sample_has_its_place(pipeline):
    timeline = pipeline(_recording((2.3, -1.0)))
    assert timeline.starts_s.tolist() == [0.0, 0.5, 1.0, 1.3]
    assert [(s.start_s, s.end_s) for s in timeline.segments] == [(0.0, 2.3)]


def test_a_gap_is_told_and_a_short_one_is_filled(pipeline):
    values = _recording((3, -2.0), (2, 0.0), (3, 2.0), (0.3, 2.0))
    values[30:50] = np.nan
    values[10:12, 1] = np.nan  # 0.2 s
    values[75:80] = np.nan
    timeline = pipeline(values)
    spans = [(s.start_s, s.end_s, s.label) for s in timeline.segments]
    assert spans == [(0.0, 3.0, "sit"), (3.0, 5.0, None), (5.0, 7.5, "walk"), (7.5, 8.3, None)]
    assert timeline.segments[1].probability is None


def test_columns_are_found_by_name_and_times_make_the_rate(pipeline, tmp_path):
    values = _recording((3, -2.0), (3, 2.0))
    table = pd.DataFrame(values, columns=["acc_x", "acc_y", "acc_z"])[["acc_z", "acc_x", "acc_y"]]
    expected = pipeline(values).segments
    assert pipeline(table).segments == expected
    table["time"] = 100 + np.arange(len(table)) / 10
    assert pipeline(table).segments == expected
    table["time"] = pd.date_range("2024-05-31", periods=len(table), freq="100ms", tz="Europe/Vienna").astype(str)
    for name in ("a.csv", "a.csv.gz", "b.parquet"):
        getattr(table, f"to_{'csv' if 'csv' in name else 'parquet'}")(tmp_path / name, index=False)
        assert pipeline(tmp_path / name).segments == expected
    np.save(tmp_path / "c.npy", values)
    assert pipeline(tmp_path / "c.npy").segments == expected
    table.set_index("time").to_parquet(tmp_path / "index.parquet")
    assert pipeline(tmp_path / "index.parquet").segments == expected
    assert pipeline(table.set_index("time")).segments == expected
    dated = table.set_index(pd.DatetimeIndex(table["time"])).drop(columns="time").rename_axis(None)
    dated.to_parquet(tmp_path / "dated.parquet")
    assert pipeline(tmp_path / "dated.parquet").segments == pipeline(dated).segments == expected, "pandas' own index"
    assert pipeline(table.assign(time=np.arange(len(table)) * 0.064)).segments[-1].end_s == pytest.approx(
        3.84, abs=0.1
    )
    slower = table.assign(time=np.arange(len(table)) / 7.5)
    assert pipeline(slower).segments[-1].end_s == pytest.approx(8.0)
    holes = table.drop(index=range(20, 40)).reset_index(drop=True)
    assert [s.label for s in pipeline(holes).segments] == ["sit", None, "walk"]


def test_another_rate_and_other_units_come_to_the_networks_own(pipeline):
    slow, fast = _recording((4, -2.0), (4, 2.0)), np.repeat(_recording((4, -2.0), (4, 2.0)), 5, axis=0)
    same = pipeline(fast, 50.0)
    assert [(s.label, round(s.start_s, 1)) for s in same.segments] == [("sit", 0.0), ("walk", 4.0)]
    in_g = pipeline(slow / 9.80665, units=["g"] * 3)
    assert in_g.segments[0].probability == pytest.approx(pipeline(slow).segments[0].probability, abs=1e-6)
    with pytest.raises(CheckpointError, match="do not convert"):
        pipeline(slow, units=["deg/s"] * 3)


@pytest.mark.parametrize(
    "column",
    [
        "Time (s)",
        "t",
        "time ",
        "timestamp_ms",
        "loggingTime(txt)",
        "epoc (ms)",
        "elapsed (s)",
        "Date",
        "ts_ns",
        "seconds",
        "millis",
        "Zeitstempel",
    ],
)
def test_times_under_another_name_are_no_answer_at_another_speed(pipeline, column):
    """Without a look at them ten seconds at 25 Hz were 25 seconds of slow motion."""
    table = pd.DataFrame(_recording((10, 1.0)), columns=["acc_x", "acc_y", "acc_z"])
    with pytest.raises(DataError, match=rf"is column '{re.escape(column)}' when each sample was taken\? Call it time"):
        pipeline(table.assign(**{column: np.arange(len(table)) / 25}))
    assert pipeline(table.assign(**{column: np.arange(len(table)) / 25}), 25.0).segments[-1].end_s < 5


def test_whatever_they_are_called_stamps_are_times_and_numbers_of_rows_are_not(pipeline):
    table = pd.DataFrame(_recording((10, 1.0)), columns=["acc_x", "acc_y", "acc_z"])
    stamps = pd.date_range("2024-05-31", periods=len(table), freq="40ms", tz="UTC")
    for times in (stamps, stamps.astype(str), np.arange(len(table)) * 40 + 7):
        with pytest.raises(DataError, match="is column 'Hora' when each sample was taken"):
            pipeline(table.assign(Hora=times))
    plain = pipeline(table).segments
    assert (
        pipeline(table.assign(row=np.arange(len(table)), steps=np.arange(len(table)) // 9, note="x")).segments == plain
    )
    subset = np.delete(np.arange(len(table) + 2), [40, 41])
    others = {
        "row": subset, "subject": "1101", "session": "20240105", "day": "2024-01-05", "removed": pd.NaT, "": "x",
        "energy": np.cumsum(np.random.default_rng(0).gamma(1, size=len(table))), "born": pd.Timestamp("1990-03-04"),
    }  # fmt: skip
    with warnings.catch_warnings(action="error"):
        assert pipeline(table.assign(**others)).segments == plain
        twice = pd.concat(
            [table, table[["acc_x"]].set_axis(["m"], axis=1), table[["acc_x"]].set_axis(["m"], axis=1)], axis=1
        )
        assert pipeline(twice).segments == plain
    with pytest.raises(DataError, match="go up by 1 each: where they count samples"):
        pipeline(table.assign(time=np.arange(len(table))))
    slow = table.assign(time=pd.date_range("2024-05-31", periods=len(table), freq="s"))
    assert pipeline(slow).segments[-1].end_s == len(table), "stamps count no samples"


def test_a_channel_that_is_mostly_made_up_is_told(pipeline):
    table = pd.DataFrame(_recording((10, 1.0)), columns=["acc_x", "acc_y", "acc_z"])
    sparse = table.assign(acc_y=table["acc_y"].where(np.arange(len(table)) % 2 == 0))
    with pytest.warns(UserWarning, match="acc_y is missing in 50% of the samples"):
        pipeline(sparse)


def test_times_in_an_index_are_looked_at(pipeline):
    table = pd.DataFrame(_recording((10, 1.0)), columns=["acc_x", "acc_y", "acc_z"])
    expected = pipeline(table.assign(time=np.arange(len(table)) / 12)).segments
    for name in (None, "time"):
        spans = pd.Index(pd.to_timedelta(np.arange(len(table)) / 12, unit="s"), name=name)
        assert pipeline(table.set_index(spans)).segments == expected
    with pytest.raises(DataError, match="is the index when each sample was taken"):
        pipeline(table.set_index(pd.Index(np.arange(len(table)) / 12)))
    assert pipeline(table.assign(light=0.0, sequence=1)).segments == pipeline(table).segments
    stamps = pd.date_range("2024-05-31", periods=len(table), freq="80ms").strftime("%Y-%m-%dT%H:%M:%S.%f").to_numpy()
    stamps[50:] += "+02:00"
    with pytest.raises(DataError, match=r"times of samples 0 and 50, .* one has an offset"):
        pipeline(table.assign(time=stamps))


def test_fast_turns_tell_another_unit_and_a_stream_says_so_once(pipeline):
    names = {"channels": ["gyro_x", "gyro_y", "gyro_z"], "units": ["rad/s"] * 3}
    calm = HarPipeline(pipeline.run, FACTS | names | {"channel_mean": [0] * 3, "channel_std": [1.0] * 3})
    values = np.random.default_rng(0).normal(size=(100, 3))
    stream = HarStream(calm)
    with pytest.warns(UserWarning, match="gyro seems to be in deg/s, and the network takes rad/s"):
        stream.push(np.degrees(values))
    with warnings.catch_warnings(action="error", category=UserWarning):
        stream.push(np.degrees(values))
    with pytest.warns(UserWarning, match="gyro seems to be in deg/s"):
        calm(np.degrees(values))
    with warnings.catch_warnings(action="error", category=UserWarning):
        calm(values)
        calm(np.degrees(values), units=["deg/s"] * 3)
        HarStream(calm, units=["deg/s"] * 3).push(np.degrees(values))


def test_gravity_tells_another_unit(pipeline):
    with_gravity = HarPipeline(pipeline.run, FACTS | {"channel_mean": [0, 0, 9.0], "channel_std": [1.0, 1.0, 2.0]})
    without = HarPipeline(pipeline.run, FACTS | {"channel_mean": [0, 0, 0], "channel_std": [1.0, 1.0, 2.0]})
    values = _recording((4, -2.0))
    with pytest.warns(UserWarning, match="acc seems to be in g, and the network takes m/s"):
        with_gravity(values / 9.80665)
    with warnings.catch_warnings(action="error"):
        with_gravity(values)
        with_gravity(values / 9.80665, units=["g"] * 3)
        without(values / 9.80665)
        pipeline(values / 9.80665)


def test_bad_recordings_are_one_message_each(pipeline, tmp_path):
    good = pd.DataFrame(_recording((2, 1.0)), columns=["acc_x", "acc_y", "acc_z"])
    np.save(tmp_path / "pickled.npy", np.array([{"a": 1}], dtype=object))
    np.save(tmp_path / "dates.npy", np.zeros((20, 3), "datetime64[ms]"))
    lines = good.to_csv(index=False).splitlines()
    (tmp_path / "shifted.csv").write_text("\n".join([lines[0], *(f"{line},0.5" for line in lines[1:])]))
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    back = good.assign(time=np.r_[0:10, 5:15] / 10)
    good.assign(time=np.r_[0:10, 9:19] / 10).to_csv(tmp_path / "repeats.csv", index=False)
    cases = [
        (np.empty((0, 3)), "at least two"),
        (np.zeros((1, 3)), "at least two"),
        (np.zeros((20, 4)), r"shape \(20, 4\); samples \[T, 3\]"),
        (good.rename(columns={"acc_y": "ay"}), "no column 'acc_y'.*Rename"),
        (np.full((20, 3), np.inf), "infinity in sample 0"),
        (np.full((20, 3), 1.7e308), "1.7e.308 in sample 0: write NaN"),
        (
            good.assign(time=100.0 * np.arange(20)),
            "0.01 samples a second, and the network takes 10: `time` is in seconds",
        ),
        (good.assign(time=np.arange(20) / 600), "600 samples a second"),
        (good.assign(Timestamp=np.arange(20) / 25), "is column 'Timestamp' when each sample was taken"),
        (tmp_path / "shifted.csv", "a row has more fields than the header has names"),
        (tmp_path / "dates.npy", "holds no array of numbers"),
        (back, "time stamp goes back"),
        (good.assign(acc_x="-"), "holds what is no number"),
        (tmp_path / "repeats.csv", "repeats.csv, line 12: the time stamp repeats"),
        (good.assign(time="noon"), "the time of sample 0 is no time"),
        (good.assign(time=0.0), "do not go forward"),
        (tmp_path / "none.csv", "no such file"),
        (tmp_path / "pickled.npy", "cannot be read.*allow_pickle"),
        (tmp_path / "cut.parquet", "cannot be read"),
        (tmp_path, "no such file"),
    ]
    for recording, said in cases:
        with pytest.raises(DataError, match=said):
            pipeline(recording)
    for hop in (0.0, 0.01, 2.0, float("nan"), float("inf")):
        with pytest.raises(DataError, match="at least a sample"):
            pipeline(good, hop_s=hop)
    with pytest.raises(DataError, match="must be above 0"):
        pipeline(good, -1.0)
    with pytest.raises(DataError, match="has 10 samples a second, and sampling_rate_hz says 20: leave it out"):
        pipeline(good.assign(time=np.arange(20) / 10), 20.0)


def test_what_is_missing_in_a_nullable_column_is_not_measured(pipeline):
    values = _recording((4, 1.0))
    values[12:14] = np.nan
    table = pd.DataFrame(values, columns=["acc_x", "acc_y", "acc_z"])
    assert table.astype("Float64")["acc_x"][12] is pd.NA
    assert pipeline(table.astype("Float64")).segments == pipeline(table).segments


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("network")
    extractor = HarFeatureExtractor(
        num_channels=6, sampling_rate_hz=50.0, window_size=32, channel_names=[f"c{n}" for n in range(6)],
        channel_mean=[0.0] * 6, channel_std=[2.0] * 6, channel_units=["m/s^2"] * 6,
    )  # fmt: skip
    torch.manual_seed(0)
    model = har_resnet().eval()
    save_pruned(model, folder / "pruned", processor=extractor)
    for format in FORMATS_HERE:
        export_model(model, extractor, folder / format, format)
    return folder


def test_folder_onnx_and_executorch_draw_the_same_timeline(saved):
    recording = np.random.default_rng(0).normal(size=(400, 6)).cumsum(0) / 5
    recording[100:150] = np.nan
    first, *others = (
        HarPipeline.from_pretrained(saved / path)(recording, hop_s=0.2)
        for path in ("pruned", *(f"{name}/model{FORMATS[name]}" for name in FORMATS_HERE))
    )
    assert {s.label for s in first.segments} >= {None}
    for other in others:
        np.testing.assert_allclose(first.probabilities, other.probabilities, atol=1e-4)
        assert [s.label for s in other.segments] == [s.label for s in first.segments]


def test_a_network_saved_in_half_precision_is_run_in_single(saved, tmp_path):
    extractor = HarFeatureExtractor.from_pretrained(saved / "pruned")
    torch.manual_seed(0)
    model = har_resnet().eval().bfloat16()
    save_pruned(model, tmp_path / "half", processor=extractor)
    recording = np.random.default_rng(0).normal(size=(100, 6))
    found = HarPipeline.from_pretrained(tmp_path / "half")(recording).probabilities
    export_model(model.float(), extractor, tmp_path / "onnx")
    exported = HarPipeline.from_pretrained(tmp_path / "onnx" / "model.onnx")(recording).probabilities
    np.testing.assert_allclose(found, exported, atol=1e-4)
    done = CliRunner().invoke(app, ["export", str(tmp_path / "half"), "--output", str(tmp_path / "exported")])
    assert done.exit_code == 0, done.output


def test_names_of_activities_are_no_markup(tmp_path, monkeypatch):
    network = HarPipeline(_louder, FACTS | {"labels": ["[/x]", "walk [fast]"]})
    monkeypatch.setattr(HarPipeline, "from_pretrained", lambda *_, **__: network)
    np.save(tmp_path / "a.npy", _recording((3, -2.0), (3, 2.0)))
    done = CliRunner().invoke(app, ["predict", "any", str(tmp_path / "a.npy"), "--output", str(tmp_path / "out.csv")])
    assert done.exit_code == 0, done.output
    assert "[/x]" in done.output
    assert "walk [fast]" in done.output


def test_the_command_writes_the_timeline(saved, tmp_path):
    recording = pd.DataFrame(np.random.default_rng(1).normal(size=(200, 6)), columns=[f"c{n}" for n in range(6)])
    recording.to_csv(tmp_path / "walk.csv", index=False)
    given = [str(saved / "onnx" / "model.onnx"), str(tmp_path / "walk.csv"), "--output", str(tmp_path / "out.csv")]
    done = CliRunner().invoke(app, ["predict", *given])
    assert done.exit_code == 0, done.output
    written = pd.read_csv(tmp_path / "out.csv")
    assert (written["start_s"].iloc[0], written["end_s"].iloc[-1]) == (0.0, 4.0)
    assert (written["start_s"].iloc[1:].to_numpy() == written["end_s"].iloc[:-1].to_numpy()).all()
    more = ["--mean-duration-s", "30", "--shortest-s", "1", "--least-probability", "0.99", "--plot"]
    done = CliRunner().invoke(app, ["predict", *given, *more, str(tmp_path / "picture.png")])
    assert done.exit_code == 0, done.output
    assert "(unsure)" in done.output
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert pd.read_csv(tmp_path / "out.csv")["label"].isna().all()
    wrong = CliRunner().invoke(app, ["predict", *given, *more, str(tmp_path / "picture.jpg")])
    assert (wrong.exit_code, "a .png or .svg file" in wrong.output) == (2, True)
    given[3] = str(tmp_path / "lost.csv")
    nowhere = CliRunner().invoke(app, ["predict", *given, "--plot", str(tmp_path / "nowhere" / "picture.png")])
    assert (nowhere.exit_code, "there is no folder" in nowhere.output) == (2, True)
    assert not (tmp_path / "lost.csv").exists()
    before, picture = (tmp_path / "walk.csv").read_bytes(), str(tmp_path / "p.png")
    for options, said in (
        (["--output", given[1]], "is the recording: it would be replaced"),
        (["--output", picture, "--plot", picture], "is --output: it would be replaced"),
    ):
        refused(CliRunner().invoke(app, ["predict", *given[:2], *options]), said)
    assert (tmp_path / "walk.csv").read_bytes() == before
    wrong = CliRunner().invoke(app, ["predict", given[0], str(tmp_path / "none.csv"), *given[2:]])
    assert wrong.exit_code == 2
    assert "no such file" in wrong.output
    assert not (tmp_path / "lost.csv").exists()
    (tmp_path / "model.onnx").write_bytes((saved / "onnx" / "model.onnx").read_bytes())
    alone = CliRunner().invoke(app, ["predict", str(tmp_path / "model.onnx"), str(tmp_path / "walk.csv")])
    assert (alone.exit_code, "export.json beside it" in alone.output) == (2, True)
    record = json.loads((saved / "onnx" / "export.json").read_text())
    assert record["facts"]["hop_s"] == 0.32
    for text, said in (
        ("{", "is no record of an export"),
        ("{}", "is no record of an export"),
        (json.dumps(record | {"sha256": "0" * 64}), "damaged, or of another export"),
    ):
        (tmp_path / "export.json").write_text(text)
        refused(CliRunner().invoke(app, ["predict", str(tmp_path / "model.onnx"), str(tmp_path / "walk.csv")]), said)
    (tmp_path / "model.onnx").write_bytes(b"no network")
    (tmp_path / "export.json").write_text(json.dumps({"facts": record["facts"]}))
    refused(CliRunner().invoke(app, ["predict", str(tmp_path / "model.onnx"), given[1]]), "cannot be loaded")
