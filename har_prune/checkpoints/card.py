"""The model card of a pruned network: metadata the Hub reads, and what a person wants to know first."""

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import PreTrainedModel

from har_prune.checkpoints.auto_class import auto_class_of
from har_prune.checkpoints.provenance import provenances
from har_prune.pruning.history import PruningHistory
from har_prune.reporting.trajectory import trajectory_markdown

_TEMPLATE = Path(__file__).with_name("model_card_template.md")
_PIPELINE_TAGS = {
    "AutoModelForImageClassification": "image-classification",
    "AutoModelForAudioClassification": "audio-classification",
    "AutoModelForCausalLM": "text-generation",
    "AutoModelForMaskedLM": "fill-mask",
}


def loading_code(model: PreTrainedModel, where: str) -> str:
    """The expression that loads a saved model, e.g. AutoModel.from_pretrained("runs/x/pruned")."""
    remote = ", trust_remote_code=True" if getattr(model.config, "auto_map", None) else ""
    return f'{auto_class_of(model).__name__}.from_pretrained("{where}"{remote})'


def model_card(model: PreTrainedModel, history: PruningHistory | None = None, command: str | None = None) -> str:
    """README.md of a saved folder, with YAML front matter.

    Args:
        model: The saved model; `config.har_prune` of it, or of one of its towers, names the removed blocks.
        history: Record of the run; without it the card has no figures.
        command: The command that made it.
    """
    name, towers = model.config.model_type, provenances(model.config)
    origin = {key: value for record in towers.values() for key, value in record.items()}
    auto_class = auto_class_of(model).__name__
    data = ModelCardData(
        library_name="transformers",
        license=origin.get("license"),
        base_model=origin.get("base_model"),
        tags=["har_prune", name, *(["pruned", "layer-pruning"] if origin else [])],
        pipeline_tag=_pipeline_tag(model, auto_class),
        model_name=f"{name}-pruned" if origin else name,
        eval_results=_eval_results(history),
    )
    card = ModelCard.from_template(
        data,
        template_path=str(_TEMPLATE),
        title=f"{name}, pruned" if origin else name,
        provenance=origin,
        towers=towers,
        custom_code=bool(getattr(model.config, "auto_map", None)),
        loading_code=f"from transformers import {auto_class}\n\nmodel = {loading_code(model, 'PATH_OR_HUB_ID')}",
        history=history,
        command=command,
        trajectory=trajectory_markdown(history) if history else "",
        plotted=history is not None and len(history.iterations) > 1,
    )
    return str(card)


def _pipeline_tag(model: PreTrainedModel, auto_class: str) -> str | None:
    if auto_class == "AutoModelForSequenceClassification" and model.main_input_name == "input_ids":
        return "text-classification"
    return _PIPELINE_TAGS.get(auto_class)


def _eval_results(history: PruningHistory | None) -> list[EvalResult] | None:
    if history is None:
        return None
    split = history.shown_split
    measured = history.after.metrics[split]
    figures: list[tuple[str, str, Any]] = [("accuracy", "Accuracy", measured.accuracy)]
    if measured.task == "next-token":
        figures.append(("perplexity", "Perplexity", measured.figures["perplexity"]))
    else:
        figures.append(("f1", "Macro F1", measured.macro_f1))
    # A path of somebody's disk has no place in a published card.
    dataset = str(history.recipe.get("data", {}).get("name_or_path", "unknown")).rstrip("/").rsplit("/", 1)[-1]
    return [
        EvalResult(
            task_type="text-generation" if measured.task == "next-token" else "classification",
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split=split,
            metric_type=metric,
            metric_name=name,
            metric_value=round(value, 4),
        )
        for metric, name, value in figures
    ]
