"""Every block of code in the README and in docs/, as a reader would type it; and the site, built strictly."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as t
import yaml
from accelerate.state import AcceleratorState
from console import run_recipe
from datasets import ClassLabel, Dataset, Features, Image
from families import vit
from torch.utils.data import DataLoader
from typer.testing import CliRunner

from data_prep.__main__ import app as data_prep
from har_prune import find_blocks
from har_prune.blocks import families
from har_prune.commands.app import app
from har_prune.data.batches import ImageInputs
from har_prune.data.load import load_data
from har_prune.evaluation import measurement
from har_prune.evaluation.robustness import registry
from har_prune.recipe.load import read_values, recipe_of, shipped_recipes
from har_prune.scoring.criteria import base, units

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# What a test in this process cannot type, and which one does what it does.
ELSEWHERE = {
    "make ": (".ci/run", "make "),
    "pip install -c constraints.txt ": ("Makefile", "install -c constraints.txt "),
    "hf auth login": ("tests/checkpoints/test_hub.py", "token"),
    "har-prune push ": ("tests/checkpoints/test_hub.py", '"push"'),
    "har-prune run quickstart": ("tests/test_run.py", '"quickstart"'),
    "torchrun ": ("tests/test_processes.py", "nproc"),
    "accelerate launch ": ("tests/test_run.py", "accelerate"),
    "python -m data_prep wharf ": ("tests/data_prep/test_publishers.py", "wharf"),
    "pip install 'har_prune[devices,onnx]'": ("pyproject.toml", "devices = "),
    "python -m data_prep inspect recordings/": ("tests/data_prep/test_device_files.py", '"inspect"'),
    "python -m data_prep inspect FILE": ("tests/data_prep/test_device_files.py", '"inspect"'),
    "python -m data_prep csv recordings ": ("tests/test_wearables.py", '"csv"'),
    "har-prune export runs/watch/": ("tests/test_wearables.py", '"export"'),
    "har-prune predict watch-onnx/": ("tests/test_wearables.py", '"predict"'),
    "har-prune space runs/watch ": ("tests/inference/test_demo.py", '"space"'),
    "python watch-demo/app.py": ("tests/inference/test_demo.py", '"app.py"'),
}


def blocks_of(page):
    return re.findall(r"```(\w*)\n(.*?)```", page.read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with what the pages speak of: a checkpoint, images, recordings, a run."""
    folder = tmp_path_factory.mktemp("reader")
    vit().save_pretrained(folder / "my-checkpoint")
    t.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder / "my-checkpoint")
    names = ["LABEL_0", "LABEL_1", "LABEL_2"]
    features = Features({"image": Image(), "label": ClassLabel(names=names)})
    generator = np.random.default_rng(0)
    (folder / "my-data").mkdir()
    for split, count in (("train", 96), ("test", 24)):
        pictures = [generator.integers(0, 256, (16, 16, 3), dtype=np.uint8) for _ in range(count)]
        rows = {"image": pictures, "label": [n % 3 for n in range(count)]}
        Dataset.from_dict(rows, features=features).to_parquet(folder / "my-data" / f"{split}-00000-of-00001.parquet")
    (folder / "my-recordings").mkdir()
    for user in ("u1", "u2"):
        lines = ["t,ax,ay,az,activity,user"]
        for n in range(600):
            lines.append(f"{20 * n},{0.1 * np.sin(n / 9):.4f},0.02,1.0,{'walk' if n < 300 else 'sit'},{user}")
        (folder / "my-recordings" / f"{user}.csv").write_text("\n".join(lines))
    moving = np.random.default_rng(0).normal(size=(600, 6))
    header = "acc_x,acc_y,acc_z,gyro_x,gyro_y,gyro_z"
    np.savetxt(folder / "walk.csv", moving, delimiter=",", header=header, comments="")
    (folder / "my_map.yaml").write_text(next(c for k, c in blocks_of(ROOT / "docs/guides/own-data.md") if k == "yaml"))
    done = run_recipe(
        "quickstart", folder / "runs" / "quickstart", "train.epochs=1", "heal.epochs=1", "controls=[scratch]",
        "model.config.num_hidden_layers=4", "model.config.hidden_size=16", "evaluate.latency=false",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    for subject in ("f1", "m1"):
        (folder / "runs/loso_wharf" / f"fold-{subject}").mkdir(parents=True)
        shutil.copy(folder / "runs/quickstart/history.json", folder / "runs/loso_wharf" / f"fold-{subject}")
    (folder / "runs/loso_wharf/loso.json").write_text('{"subjects": {"f1": {}, "m1": {}}}')
    before = Path.cwd()
    os.chdir(folder)
    try:
        _typed("har-prune prune my-checkpoint --data my-data --macs-reduction 0.2 --samples 64")
        _typed("har-prune prune my-checkpoint --data my-data --blocks 2 --samples 64 --output runs/two-blocks")
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def here(place, monkeypatch):
    monkeypatch.chdir(place)
    registry._load()  # what comes along is registered once in a process, and not into a copy
    for module, name in (
        (families, "_FAMILIES"), (base, "_CRITERIA"), (units, "_UNIT_CRITERIA"), (measurement, "_KINDS"),
        (registry, "_CORRUPTIONS"),
    ):  # fmt: skip
        known = base._registered() if module is base else getattr(module, name)
        monkeypatch.setattr(module, name, dict(known))
    return place


def _typed(line):
    AcceleratorState._reset_state(reset_partial_state=True)
    words = shlex.split(line, comments=True)
    if words[:3] == ["python", "-m", "data_prep"]:
        done = CliRunner().invoke(data_prep, words[3:])
    else:
        assert words[0] == "har-prune", f"nobody knows how to try {line!r}"
        done = CliRunner().invoke(app, words[1:])
    assert done.exit_code == 0, f"{line}\n{done.output}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_do_what_the_page_says(page, here):
    for kind, code in blocks_of(page):
        assert kind in ("bash", "python", "yaml", "text"), f"{page}: a block without a language is tried by nobody"
        for line in code.strip().splitlines() if kind == "bash" else ():
            other = next((test for start, test in ELSEWHERE.items() if line.startswith(start) or line == start), None)
            wanted = line.startswith("har-prune run quickstart") and "=" in line
            if other is None or wanted:
                if line.strip():
                    _typed(line)
            else:
                test, word = other
                assert word in (ROOT / test).read_text(), f"{test} does nothing like {line!r}"


def _names():
    examples = [{"pixel_values": torch.rand(3, 16, 16), "labels": torch.tensor(n % 3)} for n in range(12)]
    loader = DataLoader(examples, batch_size=4)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}
    text = {**sizes, "num_hidden_layers": 2, "vocab_size": 20, "max_position_embeddings": 20, "eos_token_id": 1}
    vision = {**sizes, "num_hidden_layers": 8, "image_size": 16, "patch_size": 8}
    clip = t.CLIPModel(t.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).eval()
    preprocess = ImageInputs(t.ViTImageProcessor(size={"height": 16, "width": 16}))
    return {
        "train_loader": loader, "calibration_batches": loader, "validation_loader": loader, "clip": clip,
        "model": vit().eval(), "data": load_data("my-data"), "preprocess": preprocess,
        "sequences": [[(0, 5.0), (1, 3.0), (2, 4.0)]], "samples": np.zeros((200, 6)),
    }  # fmt: skip


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.name not in ("start.md", "export.md", "wearables.md")],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_python_does_what_the_page_says(page, here):
    names = _names()
    shutil.rmtree("my-checkpoint-pruned", ignore_errors=True)  # two pages make it
    for kind, code in blocks_of(page):
        if kind == "python":
            exec(code, names)
    if page.name == "checkpoint.md":
        assert len(find_blocks(names["smaller"])) == len(find_blocks(names["model"])) - 1
        assert names["smaller_clip"].config.vision_config.num_hidden_layers == 6
        assert (here / "my-checkpoint-pruned" / "model.safetensors").exists()


def test_the_result_is_used_where_har_prune_is_not(here):
    (code,) = (code for kind, code in blocks_of(ROOT / "docs" / "start.md") if kind == "python")
    code = "import sys; sys.modules['har_prune'] = None\n" + code
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    first, last = done.stdout.strip().splitlines() or [done.stderr[-2000:]] * 2
    assert "('gyro_z', 'rad/s')" in first
    assert "50.0 Hz" in first
    assert len(last.split(",")) == 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_yaml_is_part_of_a_recipe(page, here):
    for kind, code in blocks_of(page):
        values = yaml.safe_load(code) if kind == "yaml" else None
        if values is None or "channels" in values:  # a column map: the page's own command reads it
            continue
        whole = read_values(shipped_recipes()["loso_utd_mhad2" if "seeds" in values else "quickstart"])
        for key, value in values.items():
            whole[key] = {**whole[key], **value} if isinstance(value, dict) and key in whole else value
        recipe_of(whole, str(page))


def test_every_link_leads_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
            assert target.startswith("https://") or (page.parent / target).exists(), f"{page}: {target}"


def test_the_tour_runs(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "tour.py"], cwd=tmp_path, env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 blocks" in done.stdout.splitlines()[-1]


def test_the_site_is_built_without_a_warning(tmp_path):
    mkdocs = pytest.importorskip("mkdocs.commands.build")
    from mkdocs.config import load_config

    mkdocs.build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path / "site"), strict=True))
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) >= len(PAGES) - 1
    for page in pages:
        outside = re.findall(r'<(?:script|link|img)[^>]*?(?:src|href)="(https?://[^"]+)"', page.read_text())
        assert not [url for url in outside if "canonical" not in url], f"{page} fetches {outside}"
    keys = (tmp_path / "site" / "reference" / "recipe" / "index.html").read_text()
    for key in ("macs_reduction", "checkpoint_minutes", "severities"):
        assert key in keys
    console = (tmp_path / "site" / "reference" / "console" / "index.html").read_text()
    assert "--min-speedup" in console
    shutil.rmtree(tmp_path / "site")
