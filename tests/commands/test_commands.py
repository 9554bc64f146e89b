import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import har_checkpoint
import pytest
from accelerate.state import AcceleratorState
from typer.testing import CliRunner

from har_prune.commands.app import app
from har_prune.recipe.load import load_recipe, shipped_recipes
from har_prune.runtime.console import console


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return har_checkpoint.make(tmp_path_factory.mktemp("checkpoint") / "model")


def _har_prune(*arguments):
    AcceleratorState._reset_state(reset_partial_state=True)  # a user's command is a process of its own
    return CliRunner().invoke(app, list(map(str, arguments)))


def _refused(result, *words):
    text = " ".join(result.output.split())
    assert result.exit_code == 2, text
    assert "Traceback" not in text
    for word in words:
        assert word in text


def _score(checkpoint, *options):
    return CliRunner().invoke(app, ["score", checkpoint, "--data", "synthetic", *options])


def test_score_prints_a_table_and_writes_json_and_a_heat_map(checkpoint, tmp_path):
    out = tmp_path / "scores"
    criteria = ["cka", "block_influence", "taylor", "consensus(cka, taylor)"]
    options = [part for name in criteria for part in ("--criterion", name)]
    result = _score(
        checkpoint, *options, "--test-subject", "s10", "--samples", "64", "--interval", "0.9", "--output", str(out)
    )
    assert result.exit_code == 0, result.output
    shown = " ".join(result.output.split())
    assert "Importance of 3 blocks (higher = keep), in har_transformer.layers" in shown
    assert "Would go first, by cka: " in shown
    assert "…" not in result.output, "it fits into 80 columns"
    record = json.loads((out / "scores.json").read_text())
    assert list(record["criteria"]) == criteria
    cka = record["criteria"]["cka"]
    assert (cka["samples"], cka["precision"], cka["reference"], cka["estimator"]) == (64, "fp32", "current", "exact")
    assert [block["index"] for block in cka["blocks"]] == [0, 1, 2]
    assert cka["blocks"][0]["interval"][0] <= cka["blocks"][0]["interval"][1]
    assert (out / "scores.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--test-subject", "s10", "--criterion", "ckaa"], r"unknown criterion 'ckaa'"),
        (["--test-subject", "nobody"], "test subject 'nobody' is not in the data"),
        ([], "give --test-subject"),
        (["--test-subject", "s10", "--precision", "fp8"], "--precision: Input should be 'fp32' or 'bf16' (got 'fp8')"),
        (["--test-subject", "s10", "--rename-channel", "acc_x"], "'acc_x' is not DATA=MODEL"),
        (["--test-subject", "s10", "--rename-channel", "ax=acc_x"], "names no channel 'ax'"),
        (["--test-subject", "s10", "--interval", "2"], "--interval: Input should be less than 1"),
        (["--test-subject", "s10", "--representation", "nowhere"], "no module is called 'nowhere'"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(checkpoint, tmp_path, options, message):
    out = tmp_path / "scores"
    result = _score(checkpoint, *options, "--output", str(out))
    assert result.exit_code == 2
    assert message in result.output.replace("\n", " ")
    assert not out.exists()


def test_prune_is_a_recipe_that_run_repeats(checkpoint, tmp_path):
    out = tmp_path / "out [/b]"  # no markup
    options = [
        *("--data", "synthetic", "--test-subject", "s10", "--blocks", 2, "--epochs", 0.02, "--samples", 16),
        *("--num-threads", 1, "evaluate.latency=false", "prune.calibration.execution_plan={micro_batch: 16}"),
    ]
    result = _har_prune("prune", checkpoint, *options, "--output", out)
    assert result.exit_code == 0, result.output
    assert "left 2 blocks" in result.output
    assert f"{out / 'report.md'}" in result.output.replace("\n", "")
    history = json.loads((out / "history.json").read_text())
    assert history["recipe"]["prune"]["target"]["blocks"] == 2
    assert history["recipe"]["heal"]["epochs"] == 0.02
    again = _har_prune("run", out / "recipe.yaml", f"output_dir={tmp_path / 'again'}")
    assert again.exit_code == 0, again.output
    repeated = json.loads((tmp_path / "again" / "history.json").read_text())
    assert [step["weights_sha256"] for step in repeated["iterations"]] == [
        step["weights_sha256"] for step in history["iterations"]
    ]
    _refused(_har_prune("prune", checkpoint, "--data", "synthetic"), "give at least one of macs_reduction, parameters")
    _refused(_har_prune("prune", checkpoint, *options, "--criterion", "ckaa", "--output", tmp_path / "x"), "'cka'?")
    _refused(_har_prune("prune", checkpoint, *options, "heal.epoch=1", "--output", tmp_path / "x"), "'epochs'?")
    _refused(
        _har_prune("prune", checkpoint, *options[:3], "s10", "--blocks", 0, "--output", tmp_path / "x"),
        "target.blocks",
    )
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("command", [["prune", "--blocks", 2], ["score"], ["evaluate"]])
def test_a_missing_checkpoint_is_said_before_the_data_are_loaded(command, monkeypatch):
    monkeypatch.setattr("har_prune.data.load.load_data", lambda *_: pytest.fail("the data were loaded first"))
    _refused(_har_prune(*command, "runs/typo/pruned", "--data", "synthetic"), "runs/typo/pruned does not exist")


def test_init_writes_a_recipe_that_is_valid_and_says_what_there_is(checkpoint, tmp_path):
    path = tmp_path / "mine.yaml"
    options = [checkpoint, "--data", "synthetic", "--test-subject", "s10", "--output", path]
    result = _har_prune("init", *options)
    assert result.exit_code == 0, result.output
    text = path.read_text()
    assert "3 blocks in 1 stage(s), 3 removable" in text
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # a draft of keys that are old
        recipe = load_recipe(path)
    assert (recipe.model.name_or_path, recipe.heal.when) == (checkpoint, "end")
    assert _har_prune("run", path, "--dry-run", "num_threads=1").exit_code == 0
    _refused(_har_prune("init", *options), "exists: choose another --output")


def test_a_folder_that_yaml_would_misread_is_quoted(checkpoint, tmp_path):
    odd, written = tmp_path / "a: b #1", tmp_path / "recipe.yaml"
    shutil.copytree(checkpoint, odd)
    result = _har_prune("init", odd, "--data", "synthetic", "--test-subject", "s10", "--output", written)
    assert result.exit_code == 0, result.output
    assert load_recipe(written).output_dir == Path("runs/a: b #1-pruned")


def test_a_file_for_a_folder_is_refused_before_anything_is_scored(checkpoint, tmp_path):
    (tmp_path / "scores").write_text("mine")
    _refused(_score(checkpoint, "--output", str(tmp_path / "scores")), "is a file: --output names a folder")


def test_recipes_are_listed_copied_and_checked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    listed = _har_prune("recipes", "list").output
    assert "quickstart" in listed
    assert "WISDM" in listed
    for name in ("quickstart", "loso_wharf"):
        assert _har_prune("recipes", "cp", name, f"{name}.yaml").exit_code == 0
        assert load_recipe(tmp_path / f"{name}.yaml") == load_recipe(name)
        assert (tmp_path / f"{name}.yaml").read_text().startswith("# ")
    _refused(_har_prune("recipes", "cp", "quickstart", "quickstart.yaml"), "quickstart.yaml exists")
    _refused(_har_prune("recipes", "validate", "quickstart.yaml", "sed=1"), "Did you mean 'seed'?")
    assert "valid" in _har_prune("recipes", "validate", "quickstart.yaml", "seed=1").output


def test_the_first_line_comes_before_the_work(monkeypatch):
    said = []
    monkeypatch.setattr(console, "print", lambda text, **_: said.append(text))
    monkeypatch.setattr("har_prune.recipe.load.load_recipe", lambda *_: said.append("loading"))
    _har_prune("run", "quickstart")
    assert said[0].startswith("har_prune 0.")
    assert said[1] == "loading"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_run_says_how_to_go_on_and_cleans_up(number, code, root, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "har_prune.commands.app", "run", "quickstart", f"output_dir={out}"]
    command += ["num_threads=1", "train.epochs=500"]
    process = subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if "training the original" in line:
            break
    process.send_signal(number)
    try:
        said = process.communicate(timeout=120)[1]
    finally:
        process.kill()
    assert process.returncode == code
    assert said.strip().splitlines()[-1] == "error: stopped. Start the same command again: it continues."
    assert "Traceback" not in said
    assert not list(out.glob(".partial*"))


def test_a_wheel_holds_the_recipes_and_runs_them(root, tmp_path):
    """The wheel's files alone, in a folder with nothing else."""
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", tmp_path, root]
    subprocess.run(build, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    site, here = tmp_path / "site", tmp_path / "here"
    here.mkdir()
    zipfile.ZipFile(wheel).extractall(site)
    command = [sys.executable, "-P", "-m", "har_prune.commands.app", "run", "quickstart", "num_threads=1"]
    command += ["train.epochs=0.1", "heal.epochs=0.05", "prune.target={blocks: 7}", "prune.calibration.samples=16"]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (here / "runs" / "quickstart" / "pruned" / "model.safetensors").exists()
    history = json.loads((here / "runs" / "quickstart" / "history.json").read_text())
    assert history["environment"]["commit"] == "unknown", "it ran from the wheel, not from the checkout"
    for noise in ("torchvision", "were not passed to `accelerate launch`"):
        assert noise not in done.stderr


def test_a_former_word_in_a_recipe_is_said_in_one_line(tmp_path):
    (tmp_path / "old.yaml").write_text(
        (shipped_recipes()["wharf"])
        .read_text()
        .replace("protocol: loso", "protocol: loto")
        .replace("  test_subject: m1\n", "")
    )
    command = [sys.executable, "-m", "har_prune.commands.app", "recipes", "validate", "old.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0
    assert done.stderr.splitlines()[1:] == ["warning: protocol loto is now trial_holdout (since 0.2)"]
