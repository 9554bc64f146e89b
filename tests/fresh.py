"""A process that has never heard of har_prune: the only honest judge of a saved folder."""

import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

_SCRIPT = """
import sys
sys.modules["har_prune"] = None  # `import har_prune` raises from here on
import transformers
import os, torch
from safetensors.torch import load_file, save_file
auto_class, folder, inputs, output, trust = sys.argv[1:]
model, info = getattr(transformers, auto_class).from_pretrained(
    folder, trust_remote_code=trust == "True", output_loading_info=True
)
assert transformers.AutoModel.from_pretrained(folder, trust_remote_code=trust == "True").config.model_type
if os.path.exists(os.path.join(folder, "preprocessor_config.json")):
    auto_processor = "AutoFeatureExtractor" if "input_values" in load_file(inputs) else "AutoImageProcessor"
    getattr(transformers, auto_processor).from_pretrained(folder, trust_remote_code=trust == "True")
assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
with torch.no_grad():
    save_file({"logits": model.eval()(**load_file(inputs))[0].contiguous()}, output)
"""


def logits_in_fresh_process(
    auto_class: str, folder: Path, inputs: dict[str, Tensor], scratch: Path, *, trust_remote_code: bool
) -> Tensor:
    """First output of `AutoX.from_pretrained(folder)` in a process that cannot import har_prune."""
    save_file({key: value.contiguous() for key, value in inputs.items()}, scratch / "inputs.safetensors")
    arguments = [auto_class, folder, scratch / "inputs.safetensors", scratch / "logits.safetensors", trust_remote_code]
    result = subprocess.run(
        [sys.executable, "-c", _SCRIPT, *map(str, arguments)],
        cwd=scratch,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return load_file(scratch / "logits.safetensors")["logits"].to(torch.float32)
