"""The model card of a pruned network: metadata the Hub reads, and what a person wants to know first."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import PreTrainedModel

from har_prune.checkpoints.auto_class import auto_class_of
from har_prune.checkpoints.provenance import command_without_places, dataset_license, is_hub_id, provenances
from har_prune.pruning.history import PruningHistory
from har_prune.reporting.names import in_markdown, printable
from har_prune.reporting.robustness import robustness_markdown, robustness_of
from har_prune.reporting.trajectory import chosen_note, trajectory_markdown
from har_prune.widths.find import find_widths

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


def model_card(
    model: PreTrainedModel,
    history: PruningHistory | None = None,
    command: str | None = None,
    processors: Sequence[Any] = (),
) -> str:
    """README.md of a saved folder, with YAML front matter.

    Args:
        model: The saved model; `config.har_prune` of it, or of one of its towers, names the removed blocks.
        history: Record of the run; without it the card has no figures.
        command: The command that made it; paths of somebody's disk are cut to their last part.
        processors: What is saved with it. Of a feature extractor for sensors the card says how recordings become
            windows.
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
        title=in_markdown(f"{name}, pruned" if origin else name),
        provenance=_shown(origin),
        narrowed=_narrowed(model, towers),
        towers={in_markdown(tower): _shown(record) for tower, record in towers.items()},
        linked=is_hub_id(str(origin.get("base_model"))),
        custom_code=bool(getattr(model.config, "auto_map", None)),
        loading_code=f"from transformers import {auto_class}\n\nmodel = {loading_code(model, 'PATH_OR_HUB_ID')}",
        recording=_recording(model, processors),
        history=history,
        dataset_license=_dataset_license(history),
        command=printable(command_without_places(command)) if command else None,
        trajectory=trajectory_markdown(history) if history else "",
        chosen=chosen_note(history) if history else "",
        robustness="\n".join(robustness_markdown(robustness_of(history))) if history else "",
        plotted=history is not None and len(history.iterations) > 1,
    )
    return str(card)


def _narrowed(model: PreTrainedModel, towers: dict[str, dict[str, Any]]) -> list[str]:
    """What is left inside the blocks of each kind that lost units: ["312 of 432 channels"]."""
    if "original_widths" not in towers.get("", {}):
        return []
    widths = find_widths(model).widths
    found = []
    for kind in dict.fromkeys(width.kind.name for width in widths):
        left, before = (
            sum(getattr(width, name) for width in widths if width.kind.name == kind)
            for name in ("units", "original_units")
        )
        found += [f"{left} of {before} {kind}"] if left < before else []
    return found


def _shown(record: dict[str, Any]) -> dict[str, Any]:
    return {key: in_markdown(value) if isinstance(value, str) else value for key, value in record.items()}


def _recording(model: PreTrainedModel, processors: Sequence[Any]) -> dict[str, Any] | None:
    """What has to be known to classify a recording of sensors; None for other models."""
    extractor = next((each for each in processors if hasattr(each, "channel_units")), None)
    if extractor is None or not auto_class_of(model).__name__.endswith("Classification"):
        return None
    size, rate, channels = extractor.window_size, extractor.sampling_rate_hz, extractor.num_channels
    rate = int(rate) if rate == int(rate) else rate
    names = extractor.channel_names or [f"channel {index}" for index in range(channels)]
    units = extractor.channel_units or ["unit not recorded"] * channels
    return {
        "size": size,
        "window_s": f"{size / rate:g}",
        "rate": rate,
        "channels": ", ".join(in_markdown(f"{name} ({unit})") for name, unit in zip(names, units, strict=False)),
        "labels": ", ".join(in_markdown(model.config.id2label[index]) for index in range(model.config.num_labels)),
        "auto_class": auto_class_of(model).__name__,
        "remote": ", trust_remote_code=True" if getattr(model.config, "auto_map", None) else "",
        "shape": f"[samples, {channels}]",
        "cut": f"recording[: len(recording) // {size} * {size}].reshape(-1, {size}, {channels})",
    }


def _dataset_license(history: PruningHistory | None) -> str | None:
    name = history.recipe.get("data", {}).get("name_or_path") if history is not None else None
    license = dataset_license(str(name)) if name else None
    return in_markdown(license) if license else None


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
    data = history.recipe.get("data", {})
    is_own = split == "test" and data.get("protocol", "official") == "official"  # others are cut out of the data here
    own = data.get("test_split", split) if is_own else None
    # A path of somebody's disk has no place in a published card.
    dataset = str(data.get("name_or_path", "unknown")).rstrip("/").rsplit("/", 1)[-1]
    return [
        EvalResult(
            task_type="text-generation" if measured.task == "next-token" else "classification",
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_config=data.get("subset"),
            dataset_split=own if data else split,
            metric_type=metric,
            metric_name=name,
            metric_value=round(value, 4),
        )
        for metric, name, value in figures
    ]
