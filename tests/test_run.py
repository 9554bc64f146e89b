"""run.py as a user meets it: results, messages, exit codes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_checkpoints
import tiny_cifar
import torch
from accelerate.state import AcceleratorState
from datasets import Dataset
from families import har_transformer
from fresh import logits_in_fresh_process
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from typer.testing import CliRunner

from data_prep.hub_folder import new_folder, write
from data_prep.readers import synthetic
from data_prep.recordings import Windowing
from har_prune import HarFeatureExtractor, PruningHistory, save_pruned
from har_prune.commands.app import app
from har_prune.data.config import DataConfig
from har_prune.data.load import load_data
from har_prune.data.protocols import make_splits
from har_prune.errors import ProcessGroupError
from har_prune.recipe.accelerator import make_accelerator

FAST = [
    "num_threads=1", "train.epochs=1", "heal.epochs=0.1", "prune.calibration.samples=32", "evaluate.latency=false",
    "controls=[]",
]  # fmt: skip


def _run(recipe, out, *overrides):
    AcceleratorState._reset_state(reset_partial_state=True)  # a user's run is a process of its own
    # One thread: several test workers share the cores.
    return CliRunner().invoke(app, ["run", str(recipe), f"output_dir={out}", "num_threads=1", *overrides])


def _refused(result, *words):
    text = " ".join(result.output.split())
    assert result.exit_code == 2, text
    for word in words:
        assert word in text
    assert "Traceback" not in text


@pytest.fixture(scope="module")
def quickstart(root):
    return root / "recipes" / "quickstart.yaml"


@pytest.fixture(scope="module")
def finished(quickstart, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    result = _run(quickstart, out, *FAST, "prune.target.macs_reduction=0.2")
    assert result.exit_code == 0, result.output
    return out, result.output


def test_a_run_leaves_what_a_user_needs(finished, quickstart):
    out, output = finished
    names = {path.name for path in out.iterdir()}
    expected = {
        "recipe.json",
        "recipe.yaml",
        "data.json",
        ".lock",
        "original.json",
        "metrics.jsonl",
        "original",
        "history.json",
        "report.md",
        "trajectory.png",
        "pruned",
    }
    assert names == expected | {"iteration-000", "iteration-001", "iteration-002"}
    history = PruningHistory.from_json(json.loads((out / "history.json").read_text()))
    assert history.macs_reduction(history.iterations[-1]) >= 0.2
    assert history.recipe["data"]["test_subjects"] == ["s10", "s11", "s12"]
    assert history.environment["torch"] == torch.__version__
    assert (out / "trajectory.png").read_bytes().startswith(b"\x89PNG")
    report = (out / "report.md").read_text()
    assert f"    har-prune run {quickstart} output_dir={out}" in report
    assert "climbing_stairs" in report
    for word in ("blocks", "MACs", "parameters", "accuracy", "macro-F1", "before", "after"):
        assert word in output
    assert f'from_pretrained("{out / "pruned"}", trust_remote_code=True)' in output


def test_the_result_loads_without_har_prune_and_gives_the_saved_logits(finished, tmp_path):
    out, _ = finished
    from transformers import AutoFeatureExtractor, AutoModelForSequenceClassification

    data = load_data("synthetic")
    extractor = AutoFeatureExtractor.from_pretrained(out / "pruned")
    inputs = {"input_values": extractor(data.values[:4], return_tensors="pt")["input_values"]}
    model = AutoModelForSequenceClassification.from_pretrained(out / "pruned")
    assert [model.config.id2label[i] for i in range(6)] == data.label_names
    config = DataConfig(name_or_path="synthetic", protocol="holdout", test_subjects=("s10", "s11", "s12"))
    train = make_splits(data, config, 0).train
    assert extractor.channel_mean == pytest.approx(data.values[train].mean(axis=(0, 1)), rel=1e-4)
    job = ("AutoModelForSequenceClassification", out / "pruned", inputs)
    logits = logits_in_fresh_process({"pruned": job}, tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(logits["pruned"], model.eval()(**inputs).logits, rtol=1e-5, atol=1e-6)


def test_a_finished_run_started_again_says_the_same_and_another_recipe_is_refused(finished, quickstart):
    out, _ = finished
    before = (out / "history.json").read_text()
    again = _run(quickstart, out, *FAST, "prune.target.macs_reduction=0.2")
    assert again.exit_code == 0, again.output
    assert json.loads((out / "history.json").read_text())["iterations"] == json.loads(before)["iterations"]
    other = _run(quickstart, out, *FAST, "prune.target.macs_reduction=0.3", "seed=1")
    _refused(other, "prune.target.macs_reduction: 0.2 there, 0.3 here", "seed: 0 there, 1 here")


def test_a_dry_run_shows_the_plan_and_writes_nothing(quickstart, tmp_path):
    result = _run(quickstart, tmp_path / "out", "--dry-run")
    assert result.exit_code == 0, result.output
    text = " ".join(result.output.split())
    assert "8 blocks in 1 stage(s), 8 candidates: [0, 1, 2, 3, 4, 5, 6, 7]" in text
    assert "validation: 22 % of the training windows: subjects s" in text
    assert "408 samples x 36 block evaluations (removing and re-running: 64)" in text
    assert not (tmp_path / "out").exists()


def test_bad_input_is_one_message_and_exit_code_2(quickstart, tmp_path):
    out = tmp_path / "out"
    _refused(_run(tmp_path / "nowhere.yaml", out), "does not exist")
    _refused(_run(quickstart, out, "heal.epoch=3", "sed=1"), "Did you mean 'epochs'?", "Did you mean 'seed'?")
    _refused(_run(quickstart, out, "data.name_or_path=./nowhere"), "data folder ./nowhere does not exist")
    _refused(_run(quickstart, out, "data.name_or_path=data/nowhere"), "data folder data/nowhere does not exist")
    _refused(_run(quickstart, out, "prune.target.macs_reduction=0.99"), "cannot be reached", "at most 0.")
    _refused(_run(quickstart, out, "prune.protected=[0,1,2,3,4,5,6,7]"), "no block may be removed")
    _refused(_run(quickstart, out, "prune.criterion=ckaa"), "unknown criterion 'ckaa'", "Did you mean 'cka'?")
    _refused(_run(quickstart, out, "model.config.hiden_size=8"), "Did you mean 'hidden_size'?")
    _refused(_run(quickstart, out, "model.config.hidden_size=50"), "not a multiple of num_attention_heads")
    _refused(_run(quickstart, out, "model.config.model_type=har"), "model_type='har'")
    _refused(_run(quickstart, out, "data.augment=[flip]"), "is not for sensor data")
    _refused(_run(quickstart, out, "model.config.num_channels=99"), "num_channels is decided by the data")
    _refused(_run(quickstart, out, "model.config={model_type: bert}"), "Bert")
    _refused(_run(quickstart, out, "heal.learning_rate=.inf", "seed=99999999999"), "has 2 problem(s)")
    _refused(_run(quickstart, out, "seed=[1"), "override 'seed=[1'", "is not YAML")
    _refused(_run(quickstart, out, "model.name_or_path=''", "data.name_or_path=''"), "data.name_or_path")
    assert not out.exists(), "nothing half-written"


def test_a_training_that_diverges_in_its_last_step_keeps_nothing(quickstart, tmp_path):
    out = tmp_path / "out"
    extreme = ["train.epochs=0.05", "train.learning_rate=1e30", "train.warmup=0", "train.max_grad_norm=null"]
    _refused(_run(quickstart, out, *extreme), "lower learning_rate")
    assert not (out / "original").exists()
    _refused(
        _run(quickstart, tmp_path / "heal", *FAST, "heal.when=1", "heal.learning_rate=1e30", "heal.warmup=0"),
        "lower learning",
    )
    assert not (tmp_path / "heal" / "iteration-001").exists()


def test_a_run_is_not_continued_on_other_data(finished, quickstart, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished[0], out)
    (out / "history.json").unlink()
    shutil.rmtree(out / "pruned")
    shutil.rmtree(out / "iteration-002")
    path = out / "data.json"
    known = json.loads(path.read_text())
    assert set(known) == {"train", "calibration", "evaluate validation", "evaluate test"}
    path.write_text(json.dumps({**known, "evaluate test": "another"}))
    same = [*FAST, "prune.target.macs_reduction=0.2"]
    _refused(_run(quickstart, out, *same), "made with other data: evaluate test differ(s)")
    path.write_text(json.dumps(known))
    again = _run(quickstart, out, *same)
    assert again.exit_code == 0, again.output


def test_a_damaged_output_folder_is_named(finished, quickstart, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished[0], out)
    same = [*FAST, "prune.target.macs_reduction=0.2"]
    (out / "iteration-001" / "step.json").write_text("{}")
    _refused(_run(quickstart, out, *same), "step.json is not what this version writes")
    (out / "recipe.json").write_text("{")
    _refused(_run(quickstart, out, *same), "recipe.json is damaged")
    assert (out / "recipe.json").read_text() == "{", "left for a person to look at"
    assert {path.name for path in out.iterdir()} == {path.name for path in finished[0].iterdir()}, "nothing lost"


def test_a_checkpoint_that_does_not_fit_is_refused(quickstart, tmp_path):
    extractor = HarFeatureExtractor(num_channels=6, window_size=128)
    wrong_head = save_pruned(har_transformer(2), tmp_path / "three", processor=extractor)
    out = tmp_path / "out"
    load = ["model.config=null", "train=null"]
    _refused(_run(quickstart, out, *load, f"model.name_or_path={wrong_head}"), "3 classes apart and the data have 6")
    weights = wrong_head / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    _refused(_run(quickstart, out, *load, f"model.name_or_path={wrong_head}"), "is corrupt or cut off")
    damaged = save_pruned(har_transformer(2), tmp_path / "damaged", processor=extractor)
    config = damaged / "config.json"
    config.write_text(config.read_text().replace('"hidden_size": 32', '"hidden_size": "x"'))
    _refused(_run(quickstart, out, *load, f"model.name_or_path={damaged}"), "cannot be loaded")
    _refused(_run(quickstart, out, *load, "model.name_or_path=checkpoints/none"), "folder checkpoints/none does not")
    assert not out.exists()


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2 processes cannot join"),
        # accelerate launch --cpu --num_processes 2 sets this, and starts one process
        ({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "ACCELERATE_USE_CPU": "True"}, "started one"),
    ],
)
def test_processes_that_do_not_know_of_each_other_are_refused(environment, words, root, tmp_path):
    result = subprocess.run(
        [sys.executable, "har_prune/run.py", "recipes/quickstart.yaml", f"output_dir={tmp_path / 'out'}"],
        cwd=root, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, **environment},
    )  # fmt: skip
    assert result.returncode == 2, result.stderr
    assert words in result.stderr
    assert "torchrun --standalone" in result.stderr
    assert not (tmp_path / "out").exists()


def test_an_accelerator_that_does_not_join_its_processes_is_refused(monkeypatch):
    make_accelerator()  # accelerate's state is made once a process: this one is alone
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ProcessGroupError, match=r"2 processes were launched.*knows of 1.*torchrun --standalone"):
        make_accelerator()


_SENSOR = [
    "data.name_or_path=synthetic", "data.protocol=holdout", "data.test_subject=null",
    "data.test_subjects=[s10, s11, s12]", "prune.target={blocks: 6}", "heal.epochs=0.02",
    "train.epochs=0.05", "data.batch_size=256", "controls=[scratch]",
]  # fmt: skip
_CIFAR = ["prune.target={blocks: 25}", "heal.epochs=0.2"]
_BASED_ON_SENSOR = (
    *("loso_wharf", "loso_utd_mhad1", "loso_utd_mhad2", "uci_har", "wisdm", "pamap2", "mhealth", "usc_had"),
)
_RECIPES = {
    "quickstart": _SENSOR,
    "wharf": [*_SENSOR, "model.config.num_hidden_layers=8"],
    **{name: [*_SENSOR, "prune.target={blocks: 7}"] for name in _BASED_ON_SENSOR},
    "cifar10_resnet56": [*_CIFAR, "heal.when=2", "heal.final.epochs=0.2"],
    "cifar10_resnet56_cpu": _CIFAR,
    "vit": [],
    "bert": [],
    "llama": ["prune.protected=[0, 3]"],
    "resnet50": ["prune.target={blocks: 5}", "heal.final.epochs=0.2", "prune.calibration.race={first: 64}"],
}


def test_every_recipe_is_run(root):
    assert {path.stem for path in (root / "recipes").glob("*.yaml")} == set(_RECIPES)


@pytest.mark.parametrize("name", _RECIPES)
def test_every_recipe_runs_for_two_steps(name, root, tmp_path):
    overrides = ["prune.target={blocks: 2}", "prune.calibration.samples=8", "evaluate.latency=false", *_RECIPES[name]]
    makers = {**tiny_checkpoints.MAKERS, "cifar10_resnet56": tiny_cifar.make, "cifar10_resnet56_cpu": tiny_cifar.make}
    if name in makers:
        (tmp_path / "made").mkdir()
        data, checkpoint = makers[name](tmp_path / "made")
        subset = ["data.subset=null"] if name in ("bert", "llama") else []
        overrides = [
            f"data.name_or_path={data}", f"model.name_or_path={checkpoint}", "data.batch_size=4", "heal.epochs=0.2",
            "data.validation_fraction=0.3", *subset, *overrides,
        ]  # fmt: skip
    result = _run(root / "recipes" / f"{name}.yaml", tmp_path / "out", *overrides)
    assert result.exit_code == 0, result.output
    history = json.loads((tmp_path / "out" / "history.json").read_text())
    assert len(history["iterations"]) == 3
    loaded = {"bert": AutoModelForSequenceClassification, "llama": AutoModelForCausalLM}.get(name)
    if loaded:  # with its tokenizer, as a user would
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / "pruned")
        model = loaded.from_pretrained(tmp_path / "out" / "pruned")
        assert model(**tokenizer("the plot is very long", return_tensors="pt")).logits.isfinite().all()
    if name == "llama":
        assert model.dtype == torch.bfloat16
        assert history["iterations"][0]["metrics"]["test"]["task"] == "next-token"
        assert "test perplexity" in (tmp_path / "out" / "report.md").read_text()
    assert (tmp_path / "out" / "pruned" / "model.safetensors").exists()


@pytest.fixture
def four_subjects(tmp_path):
    reader = synthetic.reader(4)
    with new_folder(tmp_path / "four") as folder:
        write(reader, reader.parts(folder, synthetic.INFO), Windowing(synthetic.INFO), folder)
    return [
        f"data.name_or_path={tmp_path / 'four'}", "data.test_subject=all", "data.protocol=loso",
        "data.test_subjects=[]", "train.epochs=0.2", "model.config.num_hidden_layers=2", "prune.target={blocks: 1}",
        "prune.calibration={samples: 32, execution_plan: {micro_batch: 32}}", "heal=null", "controls=[]",
        "evaluate.latency=false", "data.validation_fraction=0.3",
    ]  # fmt: skip


def test_all_folds_are_one_command(quickstart, four_subjects, tmp_path):
    out = tmp_path / "out"
    result = _run(quickstart, out, *four_subjects)
    assert result.exit_code == 0, result.output
    assert {path.name for path in out.iterdir()} == {
        *(f"fold-s0{n}" for n in range(1, 5)), "loso.json", "loso.md", "confusion.png",
    }  # fmt: skip
    summary = json.loads((out / "loso.json").read_text())
    found = []
    for subject, row in summary["subjects"].items():
        history = json.loads((out / f"fold-{subject}" / "history.json").read_text())
        assert history["recipe"]["data"]["test_subject"] == subject
        quality = [history["iterations"][step]["metrics"]["test"] for step in (0, history["selected"])]
        assert [row[network]["accuracy"] for network in ("original", "pruned")] == [q["accuracy"] for q in quality]
        found.append(quality[0]["accuracy"])
        assert sum(map(sum, quality[0]["confusion"])) == row["samples"]
    accuracy = summary["overall"]["original"]["accuracy"]
    assert accuracy["mean"] == pytest.approx(np.mean(found))
    assert accuracy["std"] == pytest.approx(np.std(found, ddof=1))
    assert accuracy["ci95"] == pytest.approx(3.182446 * np.std(found, ddof=1) / 2, rel=1e-5), "Student's t, 3 degrees"
    assert sum(map(sum, summary["confusion"]["pruned"])) == sum(r["samples"] for r in summary["subjects"].values())
    report, change = (out / "loso.md").read_text(), summary["pruned_against"]["original"]
    assert "| s03 |" in report
    assert f"| original | {100 * change['mean']:+.2f} | ± {100 * change['ci95']:.2f} | {change['p']:.3f} |" in report
    assert all(row["validated_by"][0] for row in summary["subjects"].values())
    assert (out / "confusion.png").read_bytes().startswith(b"\x89PNG")

    # A fold that was interrupted is run again, the others are not.
    before = {path.parent.name: path.stat().st_mtime_ns for path in out.glob("fold-*/history.json")}
    for name in ("pruned", "iteration-001", "history.json"):
        path = out / "fold-s02" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    again = _run(quickstart, out, *four_subjects)
    assert again.exit_code == 0, again.output
    after = {path.parent.name: path.stat().st_mtime_ns for path in out.glob("fold-*/history.json")}
    assert {name for name in before if before[name] != after[name]} == {"fold-s02"}
    assert json.loads((out / "loso.json").read_text())["overall"] == summary["overall"]
    _refused(_run(quickstart, out, *four_subjects, "seed=5"), "was made by another recipe", "seed: 0 there, 5 here")


def test_folds_that_cannot_be_are_refused_before_the_first(quickstart, four_subjects, tmp_path):
    out = tmp_path / "out"
    _refused(_run(quickstart, out, *four_subjects, "save.push_to_hub=me/x"), "has a result for each subject")
    result = _run(quickstart, out, *four_subjects, "data.validation_fraction=0.01")
    _refused(result, "no training subject can be spared")
    assert not out.exists()


def test_a_folder_of_other_data_under_the_same_path_is_refused(quickstart, four_subjects, tmp_path):
    out, data = tmp_path / "out", Path(four_subjects[0].partition("=")[2])
    one = [*four_subjects, "data.test_subject=s02"]
    assert _run(quickstart, out, *one).exit_code == 0
    for name in ("iteration-001", "pruned"):
        shutil.rmtree(out / name)
    shutil.rmtree(data)
    reader = synthetic.reader(4, seed=1)
    with new_folder(data) as folder:
        write(reader, reader.parts(folder, synthetic.INFO), Windowing(synthetic.INFO), folder)
    _refused(
        _run(quickstart, out, *one), "made with other data: calibration, evaluate test, evaluate validation, train"
    )


def test_an_altered_original_and_iterations_behind_a_missing_one_are_refused(finished, quickstart, tmp_path):
    same = [*FAST, "prune.target.macs_reduction=0.2"]
    for out, gone in (
        (tmp_path / "a", ["iteration-000", "iteration-001", "iteration-002"]),
        (tmp_path / "b", ["iteration-001"]),
    ):
        shutil.copytree(finished[0], out)
        (out / "history.json").unlink()
        for name in (*gone, "pruned"):
            shutil.rmtree(out / name)
    weights = tmp_path / "a" / "original" / "model.safetensors"
    state = load_file(weights)
    save_file({name: value + 0.5 for name, value in state.items()}, weights, metadata={"format": "pt"})
    _refused(_run(quickstart, tmp_path / "a", *same), "original were altered since this run trained them")
    _refused(_run(quickstart, tmp_path / "b", *same), "iteration-002 does not follow from the 1 whole iteration(s)")


def test_a_subject_named_like_a_path_writes_nothing_outside(quickstart, four_subjects, tmp_path):
    data = Path(four_subjects[0].partition("=")[2])
    for path in data.glob("data/*.parquet"):
        table = Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "cache"), keep_in_memory=True)
        table.map(lambda row: {"subject": row["subject"].replace("s02", "../../../x")}).to_parquet(path)
    out = tmp_path / "a" / "b" / "c" / "out"
    _refused(_run(quickstart, out, *four_subjects), "subject '../../../x' cannot name one")
    assert not (tmp_path / "a").exists()
    result = _run(quickstart, out, *four_subjects, "data.test_subject=../../../x")
    assert result.exit_code == 0, result.output
    assert {path.name for path in tmp_path.iterdir()} == {"four", "cache", "a"}
    assert [
        path.name for path in (tmp_path / "a").rglob("*") if path.name == "x" or path.name.startswith("fold")
    ] == []


@pytest.mark.parametrize("launcher", [["accelerate", "launch"], ["torchrun", "--standalone", "--nproc_per_node", "2"]])
def test_the_launchers(launcher, root, tmp_path):
    out = tmp_path / "out"
    command = [
        str(Path(sys.executable).parent / launcher[0]), *launcher[1:], "har_prune/run.py", "recipes/quickstart.yaml",
        f"output_dir={out}", *FAST, "prune.target={blocks: 7}", "train.epochs=0.2",
    ]  # fmt: skip
    result = subprocess.run(
        command, cwd=root, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count("from_pretrained") == 1, "only the main process prints"
    assert (out / "pruned" / "model.safetensors").exists()
    history = json.loads((out / "history.json").read_text())
    assert history["iterations"][1]["calibration"]["samples"] == 32


def test_a_typed_mistake_reaches_the_shell_as_exit_code_2(root, tmp_path):
    result = subprocess.run(
        [sys.executable, "har_prune/run.py", "recipes/quickstart.yaml", f"output_dir={tmp_path / 'out'}", "sed=1"],
        cwd=root, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert result.returncode == 2
    assert "sed: unknown key. Did you mean 'seed'?" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.data
def test_wharf_from_the_publishers_files_to_a_checkpoint(shared, root, tmp_path):
    raw = shared / "data" / "raw" / "WHARF Data Set"
    prepared = tmp_path / "wharf"
    command = [sys.executable, "-m", "data_prep", "wharf", str(raw), str(prepared)]
    dropped = ["--drop", "Eat_meat", "--drop", "Eat_soup"]
    subprocess.run([*command, *dropped], cwd=root, check=True, capture_output=True, timeout=120)
    result = _run(
        root / "recipes" / "wharf.yaml", tmp_path / "out", f"data.name_or_path={prepared}", "train.epochs=2",
        "heal=null", "controls=[]", "prune.target={blocks: 11}", "model.config.num_hidden_layers=12",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    history = PruningHistory.from_json(json.loads((tmp_path / "out" / "history.json").read_text()))
    assert history.iterations[0].metrics["test"].accuracy > 0.3, "twelve classes, two epochs, an unseen subject"


@pytest.mark.data
def test_the_cpu_recipe_scores_24_candidates_of_the_real_resnet_56(shared, root, tmp_path):
    keras = shared / "checkpoints" / "keras_cifar10"
    checkpoint = tmp_path / "resnet56"
    subprocess.run(
        [sys.executable, "-m", "har_prune.commands.app", "convert", "--h5", str(keras / "ResNet56.h5"),
         "--json", str(keras / "ResNet56.json"), "--output", str(checkpoint)],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    result = _run(
        root / "recipes" / "cifar10_resnet56_cpu.yaml", tmp_path / "out", "--dry-run",
        f"data.name_or_path={shared / 'data' / 'cifar10'}", f"model.name_or_path={checkpoint}",
    )  # fmt: skip
    text = " ".join(result.output.split())
    assert "27 blocks in 3 stage(s), 24 candidates" in text
    assert "49000 train, 1000 validate, 10000 test" in text
    assert "125,747,840 MACs" in text
