"""What a saved folder tells the world: a card that works, and nothing of the disk it was made on."""

import json
import re
import shlex
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from families import har_transformer, llama, vit
from huggingface_hub import ModelCard
from tiny_history import history
from transformers import AutoModelForImageClassification, ViTImageProcessor

from har_prune import EvalMetrics, HarFeatureExtractor, remove_blocks, save_pruned
from har_prune.checkpoints.load import load_model
from har_prune.runtime.digest import weights_sha256


def _named_like_nothing_else(model):
    model.config.id2label = {0: "cat", 1: "dog", 2: "cow"}
    return model


_ONLY_THE_CARD = """
import sys
sys.modules["har_prune"] = None  # `import har_prune` raises from here on
"""


def test_the_lines_of_a_sensor_networks_card_classify_a_recording(tmp_path):
    data = tmp_path / "wharf"
    data.mkdir()
    (data / "README.md").write_text("---\nlicense: other\nlicense_name: research only, cite <us>\n---\n")
    model = _named_like_nothing_else(remove_blocks(har_transformer(), [2]))
    extractor = HarFeatureExtractor(
        num_channels=6, window_size=32, sampling_rate_hz=20, channel_mean=[1.0] * 6, channel_std=[2.0] * 6,
        channel_names=["acc_x", "acc_y", "acc_z", "gyr_x", "gyr_y", "gyr_z"],
        channel_units=["m/s^2"] * 3 + ["rad/s"] * 3,
    )  # fmt: skip
    record = replace(history(), recipe={**history().recipe, "data": {"name_or_path": str(data)}})
    folder = save_pruned(model, tmp_path / "model", history=record, processor=extractor)
    card = (folder / "README.md").read_text()
    for said in ("32 samples at 20 Hz, 1.6 s", "acc_z (m/s^2), gyr_x (rad/s)", "labels: cat, dog, cow", "needs SciPy",
                 "license of the training data: research only, cite &#60;us&#62;"):  # fmt: skip
        assert said in card
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len([line for line in code.splitlines() if line]) <= 10
    recording = np.random.default_rng(0).normal(size=(205, 6))
    np.save(tmp_path / "recording.npy", recording)
    script = _ONLY_THE_CARD + code.replace("PATH_OR_HUB_ID", str(folder))
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    with torch.no_grad():
        logits = model(**extractor(recording[:192].reshape(6, 32, 6), return_tensors="pt")).logits
    assert done.stdout.strip() == str([model.config.id2label[label] for label in logits.argmax(dim=1).tolist()])


def test_no_saved_file_holds_a_path_of_this_disk(tmp_path):
    secret = tmp_path / "secret place"
    model = _named_like_nothing_else(vit())
    model.save_pretrained(secret / "parent")
    ViTImageProcessor().save_pretrained(secret / "parent")
    recipe = {
        "data": {"name_or_path": f"{secret}/wharf/", "subset": None},
        "model": {"name_or_path": f"{secret}/parent"},
        "teacher": ["~/me/secret place/x", "../secret place/y", "data/near"],
    }
    record = replace(history(), recipe={**history().recipe, **recipe})
    words = ["launch", f"{secret}/x.yaml", f"output_dir={secret}/out", f"data={{name_or_path: {secret}/wharf}}", "a=1"]
    smaller = remove_blocks(load_model(AutoModelForImageClassification, secret / "parent"), [1])
    folder = save_pruned(smaller, secret / "pruned", history=record, command=shlex.join(words))
    for path in folder.iterdir():
        text = path.read_bytes().decode(errors="replace")
        assert "secret place" not in text, path
        assert str(tmp_path) not in text, path
    written = json.loads((folder / "history.json").read_text())["recipe"]
    assert written["data"]["name_or_path"] == "wharf"
    assert written["model"]["name_or_path"] == "parent"
    assert written["teacher"] == ["x", "y", "data/near"]
    assert "    launch x.yaml output_dir=out 'data={name_or_path: wharf}' a=1\n" in (folder / "README.md").read_text()
    assert record.recipe["data"]["name_or_path"] == f"{secret}/wharf/", "the run's own record stays as it is"


def test_names_of_others_are_no_markup_of_the_card(tmp_path):
    model = remove_blocks(vit(), [1])
    model.config.har_prune |= {"original": "<img src=x>|[a](http://x)", "license": "mit\n# Heading"}
    card = (
        save_pruned(model, tmp_path / "a", history=history(), command="run\n# Heading \x1b[31m") / "README.md"
    ).read_text()
    text = card.split("---\n", 2)[2]
    assert "<img" not in text
    assert "](http://x" not in text
    assert "\n# Heading" not in text
    assert "\x1b" not in text
    assert "&#60;img src=x&#62;&#124;" in text


def test_the_card_names_the_split_of_the_data_set(tmp_path):
    imagenet = {"name_or_path": "imagenet", "test_split": "validation", "protocol": "official", "subset": "v2"}
    wharf = {"name_or_path": "wharf", "test_split": "test", "protocol": "loso"}
    for number, (data, split) in enumerate([(imagenet, "validation"), (wharf, None)]):
        record = replace(history(), recipe={**history().recipe, "data": data})
        card = ModelCard.load(save_pruned(vit(), tmp_path / str(number), history=record) / "README.md")
        assert {(r.dataset_split, r.dataset_config) for r in card.data.eval_results} == {(split, data.get("subset"))}


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ({}, "Blocks were chosen by calibration data; test data chose nothing."),
        ({"heal": {"keep": "best"}}, "calibration data and weights by validation data; test"),
        (
            {"heal": {"keep": "last"}, "refit": True},
            "calibration data; test data chose nothing. Validation examples trained",
        ),
        ({"target": {"min_accuracy": 0.9}}, "calibration data and when to stop by validation data; test"),
    ],
)
def test_the_card_says_what_validation_data_chose(tmp_path, recipe, said):
    folder = save_pruned(vit(), tmp_path / "vit", history=replace(history(), recipe=recipe))
    assert said in (folder / "README.md").read_text()


def test_a_model_that_the_history_does_not_end_with_is_said_to_be_another(tmp_path):
    model, (before, after) = vit(), history().iterations
    record = replace(history(), iterations=(before, replace(after, weights_sha256=weights_sha256(model))))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        save_pruned(model, tmp_path / "right", history=record)
    assert "other weights" not in " ".join(str(each.message) for each in said)
    with pytest.warns(UserWarning, match="other weights than the network that the history ends with"):
        save_pruned(remove_blocks(model, [1]), tmp_path / "wrong", history=record)


def test_a_language_models_card_has_its_perplexity(tmp_path):
    smaller = remove_blocks(llama(), [1])
    metrics = {"test": EvalMetrics(0.4, 0.1, 2.0, 400, task="next-token")}
    record = replace(history(), iterations=tuple(replace(s, metrics=metrics) for s in history().iterations))
    card = ModelCard.load(save_pruned(smaller, tmp_path / "llama", history=record) / "README.md")
    assert {r.metric_type: r.metric_value for r in card.data.eval_results} == {"accuracy": 0.4, "perplexity": 7.3891}
    assert "test perplexity" in card.text
    assert "no code but transformers" in card.text
    assert card.data.pipeline_tag == "text-generation"
