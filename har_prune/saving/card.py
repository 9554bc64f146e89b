"""The model card of a pruned network: metadata the Hub reads, and what a person wants to know first."""

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import PreTrainedModel

from har_prune.auto_class import auto_class_of
from har_prune.pruning.history import PruningHistory
from har_prune.reporting.trajectory import trajectory_markdown

_PIPELINE_TAGS = {"AutoModelForImageClassification": "image-classification"}


def loading_code(model: PreTrainedModel, where: str) -> str:
    """The expression that loads a saved model, e.g. AutoModel.from_pretrained("runs/x/pruned")."""
    remote = ", trust_remote_code=True" if getattr(model.config, "auto_map", None) else ""
    return f'{auto_class_of(model).__name__}.from_pretrained("{where}"{remote})'


def model_card(model: PreTrainedModel, history: PruningHistory | None) -> str:
    """README.md of a saved folder, with YAML front matter.

    Args:
        model: The saved model; its `config.har_prune` names the removed blocks.
        history: Record of the run; without it the card has no figures.
    """
    name, provenance = model.config.model_type, getattr(model.config, "har_prune", None)
    auto_class = auto_class_of(model).__name__
    data = ModelCardData(
        library_name="transformers",
        tags=["har_prune", name, *(["pruned", "layer-pruning"] if provenance else [])],
        pipeline_tag=_PIPELINE_TAGS.get(auto_class),
        model_name=f"{name}-pruned" if provenance else name,
        eval_results=_eval_results(history),
    )
    lines = [f"# {name}", ""]
    if provenance:
        removed = provenance["removed_blocks"]
        lines += [
            f"{len(removed)} of {provenance['original_depth']} residual blocks were removed with har_prune (criterion "
            f"{provenance.get('criterion', 'chosen by hand')}); what is left is an ordinary checkpoint.",
            "",
            f"- removed blocks, by index in the original network: {', '.join(map(str, removed))}",
            *([f"- parent: {provenance['parent']}"] if "parent" in provenance else []),
            "",
        ]
    code = loading_code(model, "PATH_OR_HUB_ID")
    lines += ["```python", f"from transformers import {auto_class}", "", f"model = {code}", "```"]
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
