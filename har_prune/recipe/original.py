"""The unpruned network of a recipe: loaded from a checkpoint or made from a config, checked against the data."""

import math
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from har_prune.checkpoints.load import Checkpoint, load_model, load_processor, shortened
from har_prune.data.load import LabelledData
from har_prune.errors import CheckpointError, RecipeError, did_you_mean
from har_prune.models.har_transformer import HarFeatureExtractor
from har_prune.runtime.feature_hook import body_of

SEEDS_APART = 1_000_003  # between originals that teach together; far from what somebody gives as `seeds`
_ROWS_AT_ONCE = 1024
_BACKGROUND = "background"  # the class in front of ImageNet's that TensorFlow's checkpoints have


def named_as(checkpoint: Checkpoint, data: LabelledData) -> LabelledData:
    """The data with the checkpoint's classes, by their names, or in its order where the data call them otherwise.

    "background" is none of them.

    Raises:
        CheckpointError: It has another number of classes.
    """
    try:
        config = AutoConfig.from_pretrained(
            checkpoint.name_or_path,
            revision=checkpoint.revision or "main",
            trust_remote_code=checkpoint.trust_remote_code,
        )
    except (OSError, ValueError) as error:
        raise CheckpointError(f"checkpoint {checkpoint} cannot be read: {shortened(error)}") from error
    names = [config.id2label[index] for index in range(config.num_labels)]
    if len(names) == len(data.label_names) + 1:
        names = [name for name in names if name != _BACKGROUND]
    if len(names) != len(data.label_names):
        raise CheckpointError(
            f"label_names: checkpoint {checkpoint} has {len(names)} classes and the data have "
            f"{len(data.label_names)}: they are not the same ones."
        )
    keys, wanted = ([name.strip().casefold() for name in each] for each in (names, data.label_names))
    if len(set(keys)) == len(keys) and set(keys) == set(wanted):
        places = np.array([keys.index(name) for name in wanted])
        return replace(data, labels=places[data.labels], label_names=names)
    moved = [name for place, name in enumerate(wanted) if name in keys and keys[place] != name]
    if moved and len(set(keys)) == len(keys):
        raise CheckpointError(
            f"label_names: the classes of checkpoint {checkpoint} ({', '.join(names[:12])}) and of the data "
            f"({', '.join(data.label_names[:12])}) are not called the same, and {moved[0]!r} stands at another place: "
            "by their order they would be others. Name the data's classes as the checkpoint does."
        )
    return replace(data, label_names=names)


def load_original(checkpoint: Checkpoint, data: LabelledData) -> tuple[PreTrainedModel, Any | None]:
    """Loads a classifier (for texts without classes a causal language model) and its processor.

    Classes that the data do not have leave its head, where it has all of theirs by name.

    Raises:
        CheckpointError: It cannot be loaded, or its head does not fit the labels of the data.
    """
    model = load_model(_auto_class(data), checkpoint).eval()
    processor = load_processor(checkpoint, data.kind)
    if data.labels is not None:
        _keep_classes(model, data.label_names)
        _check_head(model, checkpoint, data)
    if data.kind == "text" and processor is not None:
        _agree_on_padding(model, processor, checkpoint)
    if data.labels is None:
        _refuse_not_causal(model, checkpoint)
    return model, processor


def _agree_on_padding(model: PreTrainedModel, tokenizer: Any, checkpoint: Checkpoint) -> None:
    """A classifier of texts looks for the last token before the padding, so both must know the padding token."""
    stated = model.config.pad_token_id
    if tokenizer.pad_token is None:
        has_it = stated is not None and 0 <= stated < len(tokenizer)  # some configs say -1
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(stated) if has_it else tokenizer.eos_token
        if tokenizer.pad_token is None:
            raise CheckpointError(f"the tokenizer of checkpoint {checkpoint} has no token to pad with: give it one.")
    if stated is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    elif stated != tokenizer.pad_token_id and _reads_padding(model, tokenizer.pad_token_id):
        raise CheckpointError(
            f"checkpoint {checkpoint}: config.json has pad_token_id {stated} and the tokenizer pads with "
            f"{tokenizer.pad_token_id} ({tokenizer.pad_token!r}), so what is said of a text depends on those "
            "beside it. Make them the same."
        )


@torch.no_grad()
def _reads_padding(model: PreTrainedModel, pad: int) -> bool:
    """Whether a text gets another answer when it is padded, because the network takes padding for its last token."""
    if model.config.is_encoder_decoder:  # those look for the end of a text
        return False
    token = next(index for index in range(model.config.vocab_size) if index not in (pad, model.config.pad_token_id))
    tokens = torch.full((1, 8), token, device=model.device)
    tokens[:, 4:] = pad
    alone = model(input_ids=tokens[:, :4]).logits.float()
    if alone.ndim != 2:  # of every token, and padding is none
        return False
    padded = model(input_ids=tokens, attention_mask=(tokens == token).long()).logits.float()
    return bool((alone - padded).abs().max() > 1e-3 * alone.abs().max())


@torch.no_grad()
def _refuse_not_causal(model: PreTrainedModel, checkpoint: Checkpoint) -> None:
    """A model that sees the token it is to predict, as a masked language model does, would get a perfect score."""
    tokens = torch.randint(model.config.vocab_size, (2, 8), generator=torch.Generator().manual_seed(0))
    tokens[1, :-1] = tokens[0, :-1]
    tokens[1, -1] = (tokens[0, -1] + 1) % model.config.vocab_size
    first, second = model(input_ids=tokens.to(model.device), use_cache=False).logits[:, :-1].float()
    if bool((first - second).abs().max() > 1e-3 * first.abs().max()):
        raise CheckpointError(
            f"checkpoint {checkpoint} is no causal language model: what it says of a token depends on later ones. "
            "Texts without class labels are for causal ones; give this model texts with labels."
        )


def make_original(fields: dict[str, Any], data: LabelledData, train: np.ndarray) -> tuple[PreTrainedModel, Any]:
    """Builds an untrained classifier for a data set, and the processor that normalises for it.

    Args:
        fields: `model_type` and config fields; what the data decide (labels, channels, window or image size) is
            filled in.
        data: The data set.
        train: Rows whose statistics normalise the inputs: training rows only.

    Raises:
        RecipeError: An unknown model type or config field.
    """
    names = dict(enumerate(data.label_names))
    given: dict[str, Any] = {"id2label": names, "label2id": {name: index for index, name in names.items()}}
    processor: Any
    if data.kind == "text" or not isinstance(data.values, np.ndarray):
        raise RecipeError(
            "model.config trains from scratch, and that is for sensor windows and for images of one size: for these "
            "data give model.name_or_path, a checkpoint with its tokenizer or image processor."
        )
    if data.kind == "sensor":
        _, samples, channels = data.values.shape
        given |= {"num_channels": channels, "window_size": samples}
        mean, std = _moments(data.values, train, axes=(0, 1))
        processor = HarFeatureExtractor(
            num_channels=channels,
            sampling_rate_hz=data.sensor["sampling_rate_hz"],
            window_size=samples,
            channel_mean=mean.tolist(),
            channel_std=_scale_of(mean, std, data.sensor.get("channels")).tolist(),
            channel_names=data.sensor.get("channels"),
            channel_units=data.sensor.get("units"),
        )
    else:
        from transformers import ViTImageProcessor  # the import warns about torchvision: not where there are no images

        height, width = data.values.shape[2:]
        given["image_size"] = height
        mean, std = _moments(data.values, train, axes=(0, 2, 3))
        processor = ViTImageProcessor(
            size={"height": height, "width": width},
            image_mean=(mean / 255).tolist(),
            image_std=(std / 255).tolist(),
        )
    return _build(_auto_class(data), _config(fields, given)), processor


def _scale_of(mean: np.ndarray, std: np.ndarray, names: list[str] | None) -> np.ndarray:
    """What each channel [C] is divided by: its standard deviation, or 1 where it is constant.

    Divided by next to nothing, a drift of 0.001 in somebody else's data would drown all other channels.
    """
    constant = std <= np.maximum(1e-6 * np.abs(mean), 1e-6)
    for channel in np.flatnonzero(constant):
        warnings.warn(
            f"channel {names[channel] if names else channel} is constant in the training data (about "
            f"{mean[channel]:g}) and is left unscaled: check the sensor, or prepare the data without it.",
            stacklevel=3,
        )
    return np.where(constant, 1.0, std)


def _moments(values: np.ndarray, rows: np.ndarray, axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel over some rows, in float64 and without a copy of all of them."""
    parts = np.array_split(rows, -(-len(rows) // _ROWS_AT_ONCE))
    count = len(rows) * math.prod(values.shape[axis] for axis in axes if axis)
    mean = sum(values[part].sum(axis=axes, dtype=np.float64, keepdims=True) for part in parts) / count
    squares = sum(np.square(values[part] - mean).sum(axis=axes) for part in parts)
    return mean.ravel(), np.sqrt(squares / count)


def _config(fields: dict[str, Any], given: dict[str, Any]) -> Any:
    fields = dict(fields)
    model_type = fields.pop("model_type")
    try:
        known = AutoConfig.for_model(model_type).to_dict()
    except ValueError as error:
        raise RecipeError(f"model.config.model_type={model_type!r}: {str(error).splitlines()[0][:200]}") from error
    decided = [name for name in fields if name in given or name == "num_labels"]
    if decided:
        raise RecipeError(f"model.config.{decided[0]} is decided by the data: leave it out.")
    # transformers accepts any keyword and ignores what it does not know.
    unknown = [name for name in fields if name not in known]
    if unknown:
        hints = "; ".join(f"{name!r}.{did_you_mean(name, known)}" for name in unknown)
        raise RecipeError(f"model.config has fields {model_type} does not know: {hints}")
    try:
        return AutoConfig.for_model(model_type, **{**given, **fields})
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise RecipeError(f"model.config: {str(error).strip().splitlines()[-1].strip()}") from error


def _build(auto_class: Any, config: Any) -> PreTrainedModel:
    try:
        return auto_class.from_config(config)
    except (ValueError, TypeError, KeyError) as error:
        raise RecipeError(f"no {auto_class.__name__} can be built from model.config: {shortened(error)}") from error


def _auto_class(data: LabelledData) -> Any:
    if data.labels is None:
        return AutoModelForCausalLM
    return AutoModelForImageClassification if data.kind == "image" else AutoModelForSequenceClassification


def class_rows(model: PreTrainedModel, wanted: list[str]) -> list[int]:
    """Rows of a classifier's head that the classes have by name; all of its rows where names do not tell."""
    names = [model.config.id2label[index] for index in range(model.config.num_labels)]
    rows = [index for index, name in enumerate(names) if name != _BACKGROUND]
    if [names[index] for index in rows] == wanted:  # ImageNet has two cranes: names alone would not do
        return rows
    told = len(set(names)) == len(names) and set(wanted) < set(names)
    return [names.index(name) for name in wanted] if told else list(range(len(names)))


@torch.no_grad()
def _keep_classes(model: PreTrainedModel, wanted: list[str]) -> None:
    """Takes classes that nobody asks for out of the head, where the others are there by name."""
    names = [model.config.id2label[index] for index in range(model.config.num_labels)]
    rows = class_rows(model, wanted)
    tower = body_of(model)
    body = {id(module) for module in tower.modules()} if tower is not model else set()
    heads = [
        module
        for module in model.modules()
        if isinstance(module, nn.Linear) and module.out_features == len(names) and id(module) not in body
    ]
    if rows == list(range(len(names))) or not heads:
        return
    warnings.warn(
        f"the checkpoint tells {len(names)} classes apart, {len(wanted)} of them are in the data: the others "
        f"({', '.join(names[index] for index in sorted(set(range(len(names))) - set(rows))[:8])}) leave its head.",
        stacklevel=3,
    )
    for head in heads:  # a distilled DeiT has two
        head.weight = nn.Parameter(head.weight[rows].clone())
        if head.bias is not None:
            head.bias = nn.Parameter(head.bias[rows].clone())
        head.out_features = len(rows)
    if hasattr(model, "num_labels"):
        model.num_labels = len(rows)
    model.config.id2label = dict(enumerate(wanted))
    model.config.label2id = {name: index for index, name in enumerate(wanted)}


def _check_head(model: PreTrainedModel, checkpoint: Checkpoint, data: LabelledData) -> None:
    names = [model.config.id2label[index] for index in range(model.config.num_labels)]
    if len(names) != len(data.label_names):
        raise CheckpointError(
            f"checkpoint {checkpoint} tells {len(names)} classes apart and the data have {len(data.label_names)} "
            f"({', '.join(data.label_names[:12])}): use the data it was trained for, or train a new head."
        )
    unnamed = all(name.startswith("LABEL_") for name in names)
    if not unnamed and names != data.label_names:
        pairs = [f"{i}: {a!r} / {b!r}" for i, (a, b) in enumerate(zip(names, data.label_names, strict=True)) if a != b]
        raise CheckpointError(
            f"checkpoint {checkpoint} and the data name classes differently (checkpoint / data): "
            f"{'; '.join(pairs[:4])}: use the data it was trained for, or, where they are the same classes, in the "
            "same order or by the same names, say data.label_names=checkpoint."
        )
