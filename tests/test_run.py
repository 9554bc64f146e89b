"""run.py as a user meets it: results, messages, exit codes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_checkpoints
import tiny_cifar
import torch
from console import refused, run_recipe
from families import har_transformer
from fresh import logits_in_fresh_process
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from har_prune import HarFeatureExtractor, PruningHistory, save_pruned
from har_prune.data.config import DataConfig
from har_prune.data.load import load_data
from har_prune.data.protocols import make_splits
from har_prune.errors import ProcessGroupError
from har_prune.recipe.accelerator import make_accelerator

FAST = [
    "num_threads=1", "train.epochs=1", "heal.epochs=0.1", "prune.calibration.samples=32", "evaluate.latency=false",
    "controls=[]",
]  # fmt: skip


@pytest.fixture(scope="module")
def quickstart(root):
    return root / "recipes" / "quickstart.yaml"


@pytest.fixture(scope="module")
def finished(quickstart, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    result = run_recipe(quickstart, out, *FAST, "prune.target.macs_reduction=0.2")
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


def test_a_finished_run_started_again_says_the_same_and_another_recipe_isrefused(finished, quickstart):
    out, _ = finished
    before = (out / "history.json").read_text()
    again = run_recipe(quickstart, out, *FAST, "prune.target.macs_reduction=0.2")
    assert again.exit_code == 0, again.output
    assert json.loads((out / "history.json").read_text())["iterations"] == json.loads(before)["iterations"]
    other = run_recipe(quickstart, out, *FAST, "prune.target.macs_reduction=0.3", "seed=1")
    refused(other, "prune.target.macs_reduction: 0.2 there, 0.3 here", "seed: 0 there, 1 here")


def test_a_dry_run_shows_the_plan_and_writes_nothing(quickstart, tmp_path):
    result = run_recipe(quickstart, tmp_path / "out", "--dry-run")
    assert result.exit_code == 0, result.output
    text = " ".join(result.output.split())
    assert "8 blocks in 1 stage(s), 8 candidates: [0, 1, 2, 3, 4, 5, 6, 7]" in text
    assert "validation: 22 % of the training windows: subjects s" in text
    assert "408 samples x 36 block evaluations (removing and re-running: 64)" in text
    assert not (tmp_path / "out").exists()


def test_bad_input_is_one_message_and_exit_code_2(quickstart, tmp_path):
    out = tmp_path / "out"
    refused(run_recipe(tmp_path / "nowhere.yaml", out), "does not exist")
    refused(run_recipe(quickstart, out, "heal.epoch=3", "sed=1"), "Did you mean 'epochs'?", "Did you mean 'seed'?")
    refused(run_recipe(quickstart, out, "data.name_or_path=./nowhere"), "data folder ./nowhere does not exist")
    refused(run_recipe(quickstart, out, "data.name_or_path=data/nowhere"), "data folder data/nowhere does not exist")
    refused(run_recipe(quickstart, out, "prune.target.macs_reduction=0.99"), "cannot be reached", "at most 0.")
    refused(run_recipe(quickstart, out, "prune.protected=[0,1,2,3,4,5,6,7]"), "no block may be removed")
    refused(run_recipe(quickstart, out, "prune.criterion=ckaa"), "unknown criterion 'ckaa'", "Did you mean 'cka'?")
    refused(run_recipe(quickstart, out, "model.config.hiden_size=8"), "Did you mean 'hidden_size'?")
    refused(run_recipe(quickstart, out, "model.config.hidden_size=50"), "not a multiple of num_attention_heads")
    refused(run_recipe(quickstart, out, "model.config.model_type=har"), "model_type='har'")
    refused(run_recipe(quickstart, out, "data.augment=[flip]"), "is not for sensor data")
    refused(run_recipe(quickstart, out, "model.config.num_channels=99"), "num_channels is decided by the data")
    refused(run_recipe(quickstart, out, "model.config={model_type: bert}"), "Bert")
    refused(run_recipe(quickstart, out, "heal.learning_rate=.inf", "seed=99999999999"), "has 2 problem(s)")
    refused(run_recipe(quickstart, out, "seed=[1"), "override 'seed=[1'", "is not YAML")
    refused(run_recipe(quickstart, out, "model.name_or_path=''", "data.name_or_path=''"), "data.name_or_path")
    assert not out.exists(), "nothing half-written"


def test_a_training_that_diverges_in_its_last_step_keeps_nothing(quickstart, tmp_path):
    out = tmp_path / "out"
    extreme = ["train.epochs=0.05", "train.learning_rate=1e30", "train.warmup=0", "train.max_grad_norm=null"]
    refused(run_recipe(quickstart, out, *extreme), "lower learning_rate")
    assert not (out / "original").exists()
    refused(
        run_recipe(quickstart, tmp_path / "heal", *FAST, "heal.when=1", "heal.learning_rate=1e30", "heal.warmup=0"),
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
    assert set(known) == {"train", "calibration", "evaluate validation", "evaluate test", "inputs"}
    path.write_text(json.dumps({**known, "evaluate test": "another"}))
    same = [*FAST, "prune.target.macs_reduction=0.2"]
    refused(run_recipe(quickstart, out, *same), "made with other data: evaluate test differ(s)")
    window, samples, channels, mean, spread = known["inputs"]["input_values"]
    scaled = {"input_values": [window, samples, channels, mean, 1.01 * spread]}
    path.write_text(json.dumps({**known, "inputs": scaled}))
    refused(run_recipe(quickstart, out, *same), "was made with the same data prepared in another way")
    path.write_text(json.dumps({name: value for name, value in known.items() if name != "inputs"}))  # as 0.1 did
    again = run_recipe(quickstart, out, *same)
    assert again.exit_code == 0, again.output


def test_a_damaged_output_folder_is_named(finished, quickstart, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished[0], out)
    same = [*FAST, "prune.target.macs_reduction=0.2"]
    (out / "iteration-001" / "step.json").write_text("{}")
    refused(run_recipe(quickstart, out, *same), "step.json is not what this version writes")
    (out / "recipe.json").write_text("{")
    refused(run_recipe(quickstart, out, *same), "recipe.json is damaged")
    assert (out / "recipe.json").read_text() == "{", "left for a person to look at"
    assert {path.name for path in out.iterdir()} == {path.name for path in finished[0].iterdir()}, "nothing lost"


def test_a_checkpoint_that_does_not_fit_isrefused(quickstart, tmp_path):
    extractor = HarFeatureExtractor(num_channels=6, window_size=128)
    wrong_head = save_pruned(har_transformer(2), tmp_path / "three", processor=extractor)
    out = tmp_path / "out"
    load = ["model.config=null", "train=null"]
    refused(
        run_recipe(quickstart, out, *load, f"model.name_or_path={wrong_head}"), "3 classes apart and the data have 6"
    )
    weights = wrong_head / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    refused(run_recipe(quickstart, out, *load, f"model.name_or_path={wrong_head}"), "is corrupt or cut off")
    damaged = save_pruned(har_transformer(2), tmp_path / "damaged", processor=extractor)
    config = damaged / "config.json"
    config.write_text(config.read_text().replace('"hidden_size": 32', '"hidden_size": "x"'))
    refused(run_recipe(quickstart, out, *load, f"model.name_or_path={damaged}"), "cannot be loaded")
    refused(
        run_recipe(quickstart, out, *load, "model.name_or_path=checkpoints/none"), "folder checkpoints/none does not"
    )
    assert not out.exists()


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2 processes cannot join"),
        # accelerate launch --cpu --num_processes 2 sets this, and starts one process
        ({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "ACCELERATE_USE_CPU": "True"}, "started one"),
    ],
)
def test_processes_that_do_not_know_of_each_other_arerefused(environment, words, root, tmp_path):
    result = subprocess.run(
        [sys.executable, "har_prune/run.py", "recipes/quickstart.yaml", f"output_dir={tmp_path / 'out'}"],
        cwd=root, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, **environment},
    )  # fmt: skip
    assert result.returncode == 2, result.stderr
    assert words in result.stderr
    assert "torchrun --standalone" in result.stderr
    assert not (tmp_path / "out").exists()


def test_an_accelerator_that_does_not_join_its_processes_isrefused(monkeypatch):
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
    *("loso_wharf", "loso_utd_mhad", "loso_utd_mhad1", "loso_utd_mhad2"),
    *("uci_har", "wisdm", "pamap2", "mhealth", "usc_had"),
)
_RECIPES = {
    "quickstart": _SENSOR,
    "wharf": [*_SENSOR, "model.config.num_hidden_layers=8"],
    **{name: [*_SENSOR, "prune.target={blocks: 7}"] for name in _BASED_ON_SENSOR},
    "cifar10_resnet56": [*_CIFAR, "heal.when=2", "heal.final.epochs=0.2"],
    "cifar10_resnet56_cpu": _CIFAR,
    "cifar10_resnet56_layers_and_filters": ["prune.target={macs_reduction: 0.025}", "heal.epochs=0.2"],
    "wharf_layers_and_widths": [*_SENSOR, "model.config.num_hidden_layers=8", "prune.target={macs_reduction: 0.2}"],
    "vit": [],
    "bert": [],
    "llama": ["prune.protected=[0, 3]"],
    "resnet50": ["prune.target={blocks: 5}", "prune.calibration.race={first: 64}"],
    "mobilenet_v2": [
        "data.label_names=checkpoint",
        "prune.target={blocks: 14}",
        "prune.calibration.race={first: 64}",
    ],
    "cifar10_resnet110": [
        "model={config: {model_type: cifar_resnet, depths: [9, 9, 9]}}",
        "train.epochs=0.2",
        *_CIFAR,
        "controls=[]",
    ],
}


def test_every_recipe_isrun_recipe(root):
    assert {path.stem for path in (root / "recipes").glob("*.yaml")} == set(_RECIPES)


@pytest.mark.parametrize("name", _RECIPES)
def test_every_recipe_runs_for_two_steps(name, root, tmp_path):
    overrides = ["prune.target={blocks: 2}", "prune.calibration.samples=8", "evaluate.latency=false", *_RECIPES[name]]
    makers = {**tiny_checkpoints.MAKERS, **{each: tiny_cifar.make for each in _RECIPES if each.startswith("cifar10")}}
    if name in makers:
        (tmp_path / "made").mkdir()
        data, checkpoint = makers[name](tmp_path / "made")
        subset = ["data.subset=null"] if name in ("bert", "llama") else []
        overrides = [
            f"data.name_or_path={data}", f"model.name_or_path={checkpoint}", "data.batch_size=4", "heal.epochs=0.2",
            "data.validation_fraction=0.3", *subset, *overrides,
        ]  # fmt: skip
    result = run_recipe(root / "recipes" / f"{name}.yaml", tmp_path / "out", *overrides)
    assert result.exit_code == 0, result.output
    history = json.loads((tmp_path / "out" / "history.json").read_text())
    assert len(history["iterations"]) == 3
    loaded = {"bert": AutoModelForSequenceClassification, "llama": AutoModelForCausalLM}.get(name)
    if loaded:  # with its tokenizer, as a user would
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / "pruned")
        model = loaded.from_pretrained(tmp_path / "out" / "pruned")
        assert model(**tokenizer("the plot is very long", return_tensors="pt")).logits.isfinite().all()
        tokens = history["iterations"][0]["cost"]["tokens"]
        assert tokens in (30, 32)
        assert f"| MACs, {tokens} tokens |" in (tmp_path / "out" / "report.md").read_text()
    if name == "llama":
        assert model.dtype == torch.bfloat16
        assert history["iterations"][0]["metrics"]["test"]["task"] == "next-token"
        assert "test perplexity" in (tmp_path / "out" / "report.md").read_text()
    assert (tmp_path / "out" / "pruned" / "model.safetensors").exists()


def test_an_altered_original_and_iterations_behind_a_missing_one_arerefused(finished, quickstart, tmp_path):
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
    refused(run_recipe(quickstart, tmp_path / "a", *same), "original were altered since this run trained them")
    refused(
        run_recipe(quickstart, tmp_path / "b", *same), "iteration-002 does not follow from the 1 whole iteration(s)"
    )


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
    result = run_recipe(
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
    result = run_recipe(
        root / "recipes" / "cifar10_resnet56_cpu.yaml", tmp_path / "out", "--dry-run",
        f"data.name_or_path={shared / 'data' / 'cifar10'}", f"model.name_or_path={checkpoint}",
    )  # fmt: skip
    text = " ".join(result.output.split())
    assert "27 blocks in 3 stage(s), 24 candidates" in text
    assert "49000 train, 1000 validate, 10000 test" in text
    assert "125,747,840 MACs" in text
