"""Which Auto class loads a model."""

from typing import Any

import transformers
from transformers import PreTrainedModel

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
