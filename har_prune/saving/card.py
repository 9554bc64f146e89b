"""The model card of a pruned network: metadata the Hub reads, and what a person wants to know first."""

from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import PreTrainedModel

from har_prune.pruning.history import PruningHistory
from har_prune.reporting.trajectory import trajectory_markdown

_PIPELINE_TAGS = {"AutoModelForImageClassification": "image-classification"}


def model_card(model: PreTrainedModel, auto_class: Any, history: PruningHistory | None) -> str:
    """README.md of a saved folder, with YAML front matter.

    Args:
        model: The saved model; its `config.har_prune` names the removed blocks.
        auto_class: The class that loads it.
        history: Record of the run; without it the card has no figures.
    """
    provenance = getattr(model.config, "har_prune", None) or {}
    data = ModelCardData(
        library_name="transformers",
        tags=["har_prune", "pruned", "layer-pruning", model.config.model_type],
        pipeline_tag=_PIPELINE_TAGS.get(auto_class.__name__),
        model_name=f"{model.config.model_type}-pruned",
        eval_results=_eval_results(history),
    )
    remote = ", trust_remote_code=True" if getattr(model.config, "auto_map", None) else ""
    lines = [
        f"# {model.config.model_type}, {len(provenance.get('removed_blocks', []))} of "
        f"{provenance.get('original_depth', '?')} residual blocks removed",
        "",
        "Pruned with har_prune: the residual blocks that matter least by CKA were removed for real; what is left is "
        "an ordinary checkpoint.",
        "",
        "```python",
        f"from transformers import {auto_class.__name__}",
        f'model = {auto_class.__name__}.from_pretrained("PATH_OR_HUB_ID"{remote})',
        "```",
        "",
        f"Removed blocks, by index in the original network: {provenance.get('removed_blocks', [])}",
    ]
    if history is not None:
        lines += ["", "## How it came about", "", trajectory_markdown(history)]
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(lines) + "\n"))


def _eval_results(history: PruningHistory | None) -> list[EvalResult] | None:
    if history is None:
        return None
    quality = history.iterations[history.selected].quality
    split = "test" if "test" in quality else "validation"
    dataset = str(history.recipe.get("data", {}).get("name_or_path", "unknown"))
    return [
        EvalResult(
            task_type="classification",
            dataset_type=dataset.rsplit("/", 1)[-1],
            dataset_name=dataset.rsplit("/", 1)[-1],
            dataset_split=split,
            metric_type=metric,
            metric_name=name,
            metric_value=round(value, 4),
        )
        for metric, name, value in (
            ("accuracy", "Accuracy", quality[split].accuracy),
            ("f1", "Macro F1", quality[split].macro_f1),
        )
    ]
