"""Which Auto class loads a model."""

from typing import Any

from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

_AUTO_CLASSES = (
    AutoModelForSequenceClassification,
    AutoModelForImageClassification,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModel,
)


def auto_class_of(model: PreTrainedModel) -> Any:
    """The Auto class that loads this model class; the class itself when none does."""
    for auto_class in _AUTO_CLASSES:
        found = auto_class._model_mapping.get(type(model.config), None)
        if type(model) in (found if isinstance(found, (list, tuple)) else (found,)):
            return auto_class
    return type(model)
