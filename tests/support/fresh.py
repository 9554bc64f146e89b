"""A process that has never heard of har_prune: the only honest judge of a saved folder."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

_SCRIPT = """
import sys
sys.modules["har_prune"] = None  # `import har_prune` raises from here on
import json, os, torch, transformers
from safetensors.torch import load_file, save_file
for job, (auto_class, folder, inputs, output) in json.load(open(sys.argv[1])).items():
    try:
        trust = "auto_map" in json.load(open(os.path.join(folder, "config.json")))
        model, info = getattr(transformers, auto_class).from_pretrained(
            folder, trust_remote_code=trust, output_loading_info=True
        )
        assert transformers.AutoModel.from_pretrained(folder, trust_remote_code=trust).config.model_type
        inputs = load_file(inputs)
        if os.path.exists(os.path.join(folder, "preprocessor_config.json")):
            auto_processor = "AutoFeatureExtractor" if "input_values" in inputs else "AutoImageProcessor"
            getattr(transformers, auto_processor).from_pretrained(folder, trust_remote_code=trust)
        assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
        with torch.no_grad():
            save_file({"logits": model.eval()(**inputs)[0].contiguous()}, output)
    except BaseException:
        print(job, file=sys.stderr)
        raise
"""


def logits_in_fresh_process(
    jobs: Mapping[str, tuple[str, Path, Mapping[str, Tensor]]], scratch: Path
) -> dict[str, Tensor]:
    """First outputs in one process that cannot import har_prune.

    Args:
        jobs: {name: (Auto class, folder, model inputs)}.
        scratch: An empty folder.
    """
    listed = {}
    for number, (name, (auto_class, folder, inputs)) in enumerate(jobs.items()):
        paths = [str(scratch / f"{number}-{what}.safetensors") for what in ("inputs", "logits")]
        save_file({key: value.contiguous() for key, value in inputs.items()}, paths[0])
        listed[name] = (auto_class, str(folder), *paths)
    (scratch / "jobs.json").write_text(json.dumps(listed))
    result = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(scratch / "jobs.json")],
        cwd=scratch,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return {name: load_file(job[3])["logits"].to(torch.float32) for name, job in listed.items()}
