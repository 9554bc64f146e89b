"""The README's Python, as a reader would type it."""

import re
import subprocess
import sys

import pytest
import torch
import transformers as t
from families import har_transformer, vit
from torch.utils.data import DataLoader

from har_prune import HarFeatureExtractor, find_blocks, save_pruned


@pytest.fixture(scope="module")
def blocks(root):
    found = re.findall(r"```python\n(.*?)```", (root / "README.md").read_text(), re.DOTALL)
    assert len(found) == 4, "each of them is run below"
    return found


def test_the_five_lines_and_the_scores_work(blocks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    vit().save_pretrained("my-checkpoint")
    t.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained("my-checkpoint")
    examples = [{"pixel_values": torch.rand(3, 16, 16), "labels": torch.tensor(n % 3)} for n in range(12)]
    loader = DataLoader(examples, batch_size=4)
    names = {"train_loader": loader, "calibration_batches": loader, "validation_loader": loader}
    for code in blocks[:2]:
        exec(code, names)
    assert len(find_blocks(names["result"].model)) < 4
    assert (tmp_path / "my-checkpoint-pruned" / "model.safetensors").exists()
    assert len(find_blocks(names["smaller"])) == 3


def test_a_tower_of_a_larger_model_loses_blocks(blocks):
    text = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "num_hidden_layers": 2}
    text |= {"vocab_size": 20, "max_position_embeddings": 20, "eos_token_id": 1}
    sizes = {key: value for key, value in text.items() if key not in ("vocab_size", "max_position_embeddings")}
    vision = {**sizes, "num_hidden_layers": 8, "image_size": 16, "patch_size": 8}
    names = {"clip": t.CLIPModel(t.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).eval()}
    exec(blocks[2], names)
    assert names["smaller_clip"].config.vision_config.num_hidden_layers == 6
    assert names["smaller_clip"].config.text_config.num_hidden_layers == 2


def test_the_result_is_used_where_har_prune_is_not(blocks, tmp_path):
    names = [f"acc_{axis}" for axis in "xyz"] + [f"gyro_{axis}" for axis in "xyz"]
    units = ["m/s^2"] * 3 + ["rad/s"] * 3
    extractor = HarFeatureExtractor(num_channels=6, window_size=32, channel_names=names, channel_units=units)
    save_pruned(har_transformer(), tmp_path / "runs" / "wharf" / "pruned", processor=extractor)
    code = "import sys; sys.modules['har_prune'] = None\n" + blocks[3]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    first, last = done.stdout.strip().splitlines() or [done.stderr[-2000:]] * 2
    assert "('gyro_z', 'rad/s')" in first
    assert "50.0 Hz" in first
    assert last.count("LABEL_") == 10
