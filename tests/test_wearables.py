"""The whole way of a wearables developer: files of a device in, a timeline of a recording nobody has seen out."""

from datetime import datetime, timedelta
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
import yaml
from console import run_recipe
from geneactiv import write_geneactiv
from typer.testing import CliRunner

from data_prep.__main__ import main as prepare
from data_prep.readers import synthetic
from data_prep.signals import STANDARD_GRAVITY
from har_prune import HarPipeline, HarStream
from har_prune.commands.app import app
from har_prune.exporters.export import FORMATS

_START = datetime(2024, 5, 31, 13)
_DONE = ("lying", "walking", "running")


@pytest.fixture(scope="module")
def recordings():
    """What virtual subjects did, one after the other: {subject: ([T, 3] in g, [(start_s, end_s, activity)])}."""
    reader, found = synthetic.reader(8, 0), {}
    for part in reader.parts(None, synthetic.INFO):
        for recording in reader.read(part, synthetic.INFO):
            if recording.activity in _DONE:
                values, spans = found.setdefault(recording.subject, ([], []))
                begin = spans[-1][1] if spans else 0.0
                values.append(recording.values[:, :3] / STANDARD_GRAVITY)
                spans.append((begin, begin + len(recording.values) / 50, recording.activity))
    return {subject: (np.concatenate(values), spans) for subject, (values, spans) in found.items()}


@pytest.fixture(scope="module")
def run(recordings, tmp_path_factory):
    """Seven subjects' .bin files, prepared, trained on, pruned and exported."""
    folder = tmp_path_factory.mktemp("wearables")
    (folder / "raw").mkdir()
    for subject in list(recordings)[:7]:
        values, spans = recordings[subject]
        write_geneactiv(folder / "raw" / f"{subject}_wrist.bin", values, 50.0, _START)
        times = [[(_START + timedelta(seconds=s)).isoformat() for s in span[:2]] + [span[2]] for span in spans]
        table = pd.DataFrame(times, columns=["start", "end", "label"])
        table.to_csv(folder / "raw" / f"{subject}_wrist.labels.csv", index=False)
    keys = {
        "sampling_rate_hz": 50,
        "time": {"column": "time", "unit": "ns"},
        "channels": {f"acc_{axis}": {"column": f"acc_{axis}", "unit": "g"} for axis in "xyz"},
        "label": {"from_file": "{name}.labels.csv", "unit": "iso", "missing": "drop"},
        "subject": {"from_name": "(?P<subject>[^_]+)_.*"},
    }
    (folder / "map.yaml").write_text(yaml.safe_dump(keys))
    with pytest.MonkeyPatch.context() as patch:
        command = ["csv", folder / "raw", folder / "data", "--columns", folder / "map.yaml", "--window-s", "2.56"]
        patch.setattr("sys.argv", ["data_prep", *map(str, command)])
        with pytest.raises(SystemExit) as ended:
            prepare()
    assert not ended.value.code
    recipe = {
        "seed": 0, "output_dir": "runs/watch", "num_threads": 1,
        "data": {"name_or_path": str(folder / "data"), "protocol": "loso", "test_subject": list(recordings)[6],
                 "batch_size": 32, "validation_fraction": 0.34, "augment": ["mirror"]},
        "model": {"config": {"model_type": "har_transformer", "hidden_size": 24, "num_hidden_layers": 3,
                             "num_attention_heads": 2, "intermediate_size": 32, "patch_stride": 8}},
        "train": {"epochs": 12, "learning_rate": 3e-3},
        "prune": {"calibration": {"samples": 64}, "target": {"blocks": 2}},
        "heal": {"epochs": 4, "learning_rate": 1e-3},
        "evaluate": {"latency": False},
    }  # fmt: skip
    (folder / "watch.yaml").write_text(yaml.safe_dump(recipe))
    result = run_recipe(folder / "watch.yaml", folder / "run")
    assert result.exit_code == 0, result.output
    for format in ("onnx", *(["executorch"] if find_spec("executorch") else [])):
        exported = ["export", str(folder / "run" / "pruned"), "--format", format, "--output", str(folder / format)]
        done = CliRunner().invoke(app, [*exported, "--trust-remote-code"])
        assert done.exit_code == 0, done.output
    return folder


def test_a_devices_file_becomes_a_timeline_by_every_runtime(run, recordings):
    subject = list(recordings)[7]
    values, spans = recordings[subject]
    write_geneactiv(run / "unseen.bin", values, 50.0, _START)
    networks = {"torch": run / "run" / "pruned"}
    networks |= {name: run / name / f"model{suffix}" for name, suffix in FORMATS.items() if (run / name).is_dir()}
    assert set(networks) >= {"torch", "onnx"}
    timelines = {}
    for name, network in networks.items():
        given = [str(network), str(run / "unseen.bin"), "--mean-duration-s", "20", "--hop-s", "0.64"]
        files = ["--output", str(run / f"{name}.csv"), "--plot", str(run / f"{name}.svg")]
        done = CliRunner().invoke(app, ["predict", *given, *files, "--trust-remote-code"])
        assert done.exit_code == 0, done.output
        timelines[name] = pd.read_csv(run / f"{name}.csv")
        assert (run / f"{name}.svg").stat().st_size > 1000
    for name, timeline in timelines.items():
        assert timeline["label"].tolist() == timelines["torch"]["label"].tolist(), name
        np.testing.assert_allclose(timeline["start_s"], timelines["torch"]["start_s"])
        np.testing.assert_allclose(timeline["probability"], timelines["torch"]["probability"], atol=1e-4)
    right = 0.0
    for start, end, label in spans:
        for row in timelines["torch"].itertuples():
            right += max(0.0, min(end, row.end_s) - max(start, row.start_s)) * (row.label == label)
    assert right / spans[-1][1] > 0.8, "an unseen subject"


def test_a_stream_of_the_exported_file_says_the_same(run, recordings):
    values = recordings[list(recordings)[7]][0][:2000]
    pipeline = HarPipeline.from_pretrained(run / "onnx" / "model.onnx")
    stream = HarStream(pipeline, units=["g"] * 3, hop_s=0.64)
    found = [p for first in range(0, 2000, 25) for p in stream.push(values[first : first + 25])] + stream.finish()
    timeline = pipeline(values, units=["g"] * 3, hop_s=0.64, batch_size=1)
    np.testing.assert_array_equal(np.stack([p.probabilities for p in found]), timeline.probabilities)
