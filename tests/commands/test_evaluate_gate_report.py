import json
import shutil
from dataclasses import replace

import har_checkpoint
import pytest
from console import refused, run_recipe
from tiny_history import history
from typer.testing import CliRunner

from har_prune import EvalMetrics, Latency
from har_prune.commands.app import app
from har_prune.pruning.history import PruningHistory


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return har_checkpoint.make(tmp_path_factory.mktemp("checkpoint") / "model")


def _har_prune(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def _kept(folder, record):
    folder.mkdir(exist_ok=True)
    (folder / "history.json").write_text(json.dumps(record.to_json()))
    return folder


@pytest.fixture
def run(tmp_path):
    """One of two blocks gone, half a point lost, 1.5 times faster."""
    record = history()
    before, after = record.iterations
    latency = Latency(2.0, 2.1, 1, 1, "cpu", "float32", original_ms=3.0)
    metrics = {**after.metrics, "test": EvalMetrics(0.845, 0.78, 0.4, 40, balanced_accuracy=0.7)}
    after = replace(after, metrics=metrics, cost=replace(after.cost, latency=latency))
    scratch = replace(after, metrics={**metrics, "test": EvalMetrics(0.86, 0.8, 0.4, 40)})
    return _kept(tmp_path / "run", replace(record, iterations=(before, after), controls={"scratch": scratch}))


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--max-drop", "0.5"], 0),
        (["--max-drop", "0.49"], 1),
        (["--max-drop", "2", "--metric", "macro_f1"], 0),
        (["--max-drop", "1.9", "--metric", "macro_f1"], 1),
        (["--min-speedup", "1.5"], 0),
        (["--min-speedup", "1.6", "--max-drop", "9"], 1),
        (["--min-macs-reduction", "0.2"], 0),
        (["--max-size-mib", "0.001"], 1),
        (["--beats", "scratch"], 1),
        (["--beats", "scratch", "--metric", "macro_f1"], 1),
    ],
)
def test_the_gate_says_by_its_exit_code_whether_limits_hold(run, options, code):
    result = _har_prune("gate", run, *options)
    assert result.exit_code == code, result.output
    assert ("NO" in result.output) == bool(code)


def test_a_gate_that_cannot_judge_says_why(run, tmp_path):
    refused(_har_prune("gate", run), "nothing is asked: give --max-drop")
    refused(_har_prune("gate", run, "--max-drop", "1", "--metric", "macro-f1"), "Did you mean 'macro_f1'?")
    refused(_har_prune("gate", run, "--max-drop", "1", "--metric", "trial_accuracy"), "was not measured in this run")
    refused(_har_prune("gate", run, "--beats", "random"), "control 'random' is not in this run (there: scratch)")
    refused(_har_prune("gate", tmp_path, "--max-drop", "1"), "has no history.json: there is none")
    refused(_har_prune("gate", tmp_path / "rum", "--max-drop", "1"), "Did you mean 'run'?")
    (tmp_path / "folds" / "seed-0" / "fold-s1").mkdir(parents=True)
    (tmp_path / "folds" / "seed-0" / "fold-s1" / "history.json").write_text("{}")
    refused(_har_prune("report", tmp_path / "folds"), "has a run for each fold; give one of them, e.g.")
    (tmp_path / "iteration-000").mkdir()
    refused(_har_prune("gate", tmp_path, "--max-drop", "1"), "has 1 iteration(s) and has not ended")
    (tmp_path / "history.json").write_text("{")
    refused(_har_prune("gate", tmp_path, "--max-drop", "1"), "is damaged")


def test_the_gate_of_all_folds_is_on_their_mean_and_on_the_worst_cost(run, tmp_path):
    good = PruningHistory.from_json(json.loads((run / "history.json").read_text()))
    before, after = good.iterations
    lost = {**after.metrics, "test": replace(after.metrics["test"], accuracy=0.805)}  # 4.5 points; the other 0.5
    slower = replace(after.cost, size_bytes=2 * 2**20, latency=replace(after.cost.latency, median_ms=2.5))
    controls = {**good.controls, "last": good.controls["scratch"]}
    bad = replace(good, iterations=(before, replace(after, metrics=lost, cost=slower)), controls=controls)
    folder = tmp_path / "folds"
    for subject, record in (("s1", good), ("s2", bad)):
        (folder / "seed-0").mkdir(parents=True, exist_ok=True)
        _kept(folder / "seed-0" / f"fold-{subject}", record)
    (folder / "loso.json").write_text(json.dumps({"subjects": {"s1": {}, "s2": {}}}))

    def code(*options):
        return _har_prune("gate", folder, *options).exit_code

    assert (code("--max-drop", "2.5"), code("--max-drop", "2.4")) == (0, 1)
    assert (code("--min-speedup", "1.2"), code("--min-speedup", "1.21")) == (0, 1)
    assert (code("--max-size-mib", "2"), code("--max-size-mib", "1.9")) == (0, 1)
    assert code("--beats", "scratch") == 1
    refused(_har_prune("gate", folder, "--beats", "last"), "control 'last' is not in this run (there: scratch)")
    assert "mean of 2 runs" in " ".join(_har_prune("gate", folder, "--max-drop", "3").output.split())


def test_a_latency_that_means_nothing_does_not_pass(run):
    record = json.loads((run / "history.json").read_text())
    record["iterations"][1]["cost"]["latency"]["p90_ms"] = 20.0
    (run / "history.json").write_text(json.dumps(record))
    result = _har_prune("gate", run, "--min-speedup", "1.1")
    assert result.exit_code == 1
    assert "the machine was busy" in result.output


def test_evaluate_measures_a_checkpoint_and_one_to_compare_with(checkpoint, tmp_path):
    options = ["--data", "synthetic", "--test-subject", "s10", "--num-threads", "1", "--output", tmp_path]
    other = shutil.copytree(checkpoint, tmp_path / "other")
    robust = ["--robustness", "sensor_noise", "--robustness", "other_wrist", "--severity", "5", "--severity", "1"]
    result = _har_prune("evaluate", checkpoint, *options, *robust, "--samples", "40", "--original", other)
    assert result.exit_code == 0, result.output
    for words in ("Where the multiply-accumulates are", "mean corruption error", "calibration error %", "severity 5"):
        assert words in " ".join(result.output.split())
    record = json.loads((tmp_path / "evaluation.json").read_text())
    first, second = record["networks"].values()
    assert first["cost"]["latency"]["median_ms"] > 0
    assert second["robustness"]["samples"] == 40
    assert second["robustness"]["results"]["sensor_noise"]["severities"] == [1, 5]
    assert sum(record["macs_by_module"].values()) == second["cost"]["macs"]
    assert "har_transformer.layers.0" in record["macs_by_module"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--robustness", "fog"], "corruption 'fog' is for image data, and these are sensor data"),
        (["--robustness", "sensor_nois"], "Did you mean 'sensor_noise'?"),
        (["--robustness", "sensor_noise", "--severity", "6"], "each is a number from 1 to 5"),
        (["--robustness", "pgd"], "pgd attacks images"),
    ],
)
def test_evaluate_refuses_what_it_cannot_measure(checkpoint, tmp_path, options, message):
    result = _har_prune(
        "evaluate", checkpoint, "--data", "synthetic", "--test-subject", "s10", "--output", tmp_path / "out", *options
    )
    refused(result, message)
    assert not (tmp_path / "out").exists()


def test_a_run_measures_robustness_of_what_stands_beside_each_other(root, tmp_path):
    out = tmp_path / "run"
    result = run_recipe(
        "quickstart", out, "train.epochs=1", "heal.epochs=0.5", "controls=[scratch]", "evaluate.latency=false",
        "evaluate.robustness={names: [sensor_noise, clock_drift], severities: [3], samples: 30}",
        "model.config.num_hidden_layers=3", "prune.target={blocks: 1}",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    record = PruningHistory.from_json(json.loads((out / "history.json").read_text()))
    assert ["robustness" in step.measured for step in record.iterations] == [True, False, True]
    found = record.controls["scratch"].measured["robustness"]
    assert found.samples == 30
    assert list(found.results) == ["sensor_noise", "clock_drift"]
    for text in ((out / "report.md").read_text(), (out / "pruned" / "README.md").read_text()):
        assert "## Robustness, on 30 test examples" in text
        assert "| mean corruption error, % of the original's | 100.00 |" in text
    assert (out / "pruned" / "robustness.png").read_bytes().startswith(b"\x89PNG")
    refused(run_recipe("quickstart", tmp_path / "b", "evaluate.robustness=[fog]"), "'fog' is for image data")
    assert not (tmp_path / "b").exists(), "refused before anything is trained or written"


def test_a_report_is_one_file_and_refuses_what_is_no_run(run, tmp_path):
    page = tmp_path / "out" / "report.html"
    result = _har_prune("report", run, "--output", page)
    assert result.exit_code == 0, result.output
    assert page.read_text().startswith("<!DOCTYPE html>")
    refused(_har_prune("report", tmp_path / "nothing", "--output", page), "there is no")
    refused(_har_prune("report", run, "--output", tmp_path), "is a folder: --output names a file")
