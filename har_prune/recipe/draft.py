"""A commented recipe for a checkpoint and a data set: a beginning to edit."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from har_prune.checkpoints.load import Checkpoint
from har_prune.checkpoints.provenance import folder_name
from har_prune.data.config import DataConfig
from har_prune.evaluation.macs import count_macs
from har_prune.recipe.prepare import Prepared

# First choices by kind of data, as in the recipes that come with har_prune.
_RATES = {"sensor": 5e-4, "image": 5e-5, "text": 2e-5}
_AUGMENTATIONS = {"sensor": "[jitter, scaling, rotation, time_warp]", "image": "[crop, flip]", "text": "[]"}


def draft(made: Prepared, checkpoint: Checkpoint, config: DataConfig, path: Path) -> str:
    """The text of a recipe.

    Args:
        made: Network and data, loaded.
        checkpoint: Where the network is from.
        config: Where the data are from, and how they are split.
        path: Where the text will lie, for its first line.
    """
    stack, kind = made.stack, made.data.kind
    data = config.model_dump(exclude_defaults=True, mode="json")
    model = {"name_or_path": str(checkpoint.name_or_path), "revision": checkpoint.revision,
             "trust_remote_code": checkpoint.trust_remote_code or None}  # fmt: skip
    convolutional = any(type(module).__name__ == "BatchNorm2d" for module in made.model.modules())
    rate = 1e-2 if convolutional else _RATES[kind]
    augment = _AUGMENTATIONS[kind] if isinstance(made.data.values, np.ndarray) else "[]"
    sizes = [len(part) for part in (made.splits.train, made.splits.validation, made.splits.test)]
    return f"""# har-prune run {path}
#
# {type(made.model).__name__}: {len(stack)} blocks in {len(stack.stages)} stage(s), {len(stack.removable)} removable.
# {count_macs(made.model, made.one_example):,} MACs an example. Examples that train, validate, test: {sizes}.
seed: 0
{_line(output_dir=f"runs/{folder_name(str(checkpoint.name_or_path))}-pruned")}   # started again there, a run continues
precision: auto                    # bf16 where it is faster, else fp32
data:
{_block(data)}
  batch_size: 64
  augment: {augment}   # of training batches only
model:
{_block(model)}
prune:
  criterion: cka                   # `har-prune score` shows what others say of this network
  calibration: {{samples: 1024}}     # examples the criterion sees, at most
  target: {{macs_reduction: 0.4}}    # or parameters, size_mib, latency_ms, blocks: at most; min_accuracy
  # structures: [blocks, widths]   # also units inside blocks, where the config can say so
  # protected: [0, {len(stack) - 1}]             # blocks that stay
heal:                              # training after removals; leave it out for none
  epochs: 1
  when: end                        # once, when no more goes; a number: after so many removals, and at the end
  optimizer: {"sgd" if convolutional else "adamw"}
  learning_rate: {rate:g}
  distill: true                    # the original network is the teacher
# save: {{push_to_hub: YOU/NAME}}
"""


def _line(**values: str) -> str:
    return yaml.safe_dump(values, allow_unicode=True, width=math.inf).rstrip()


def _block(values: dict[str, Any]) -> str:
    given = {key: value for key, value in values.items() if value is not None}
    text = yaml.safe_dump(given, sort_keys=False, allow_unicode=True).rstrip()
    return "\n".join(f"  {line}" for line in text.splitlines())
