"""Which Auto class loads a model."""

from typing import Any

import transformers
from transformers import PreTrainedConfig, PreTrainedModel

# The more telling first: a classifier before the features below it.
_AUTO_CLASSES = (
    "AutoModelForSequenceClassification",
    "AutoModelForImageClassification",
    "AutoModelForAudioClassification",
    "AutoModelForCausalLM",
    "AutoModelForMaskedLM",
    "AutoModelForSeq2SeqLM",
    "AutoModelForTokenClassification",
    "AutoModelForQuestionAnswering",
    "AutoModelForSemanticSegmentation",
    "AutoModelForObjectDetection",
    "AutoModelForZeroShotImageClassification",
    "AutoModelForImageTextToText",
    "AutoBackbone",
    "AutoModel",
)


def auto_class_of(model: PreTrainedModel) -> Any:
    """The Auto class that loads this model class; the class itself when none does."""
    for name in _AUTO_CLASSES:
        auto_class = getattr(transformers, name, None)
        if auto_class is None:
            continue
        found = auto_class._model_mapping.get(type(model.config), None)
        if type(model) in (found if isinstance(found, (list, tuple)) else (found,)):
            return auto_class
    return type(model)


def runs_remote_code(model: PreTrainedModel) -> bool:
    """Whether a model's class came with its checkpoint: that code runs already, and may once more."""
    return type(model).__module__.startswith("transformers_modules.")


def auto_class_for(config: PreTrainedConfig) -> Any:
    """The class that loads a saved folder, by its config: the one `architectures` names, through Auto if it is custom.

    `AutoModel` where nothing says more.
    """
    name = next(iter(getattr(config, "architectures", None) or []), "AutoModel")
    for auto_class, place in (getattr(config, "auto_map", None) or {}).items():
        if str(place).endswith(f".{name}"):
            return getattr(transformers, auto_class)
    return getattr(transformers, name, transformers.AutoModel)
