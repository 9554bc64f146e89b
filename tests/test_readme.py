"""The README's Python, as a reader would type it."""

import re

import torch
from families import vit
from torch.utils.data import DataLoader

from har_prune import find_blocks


def test_the_five_lines_work(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    vit().save_pretrained("my-checkpoint")
    examples = [{"pixel_values": torch.rand(3, 16, 16), "labels": torch.tensor(n % 3)} for n in range(12)]
    loader = DataLoader(examples, batch_size=4)
    names = {"train_loader": loader, "calibration_batches": loader, "validation_loader": loader}
    blocks = re.findall(r"```python\n(.*?)```", (root / "README.md").read_text(), re.DOTALL)
    for code in blocks[:2]:
        exec(code, names)
    assert len(find_blocks(names["result"].model)) < 4
    assert (tmp_path / "my-checkpoint-pruned" / "model.safetensors").exists()
    assert len(find_blocks(names["smaller"])) == 3
