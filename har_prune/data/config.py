"""Which data, split how; the recipe's `data` section."""

import warnings
from typing import Literal

from pydantic import Field, field_validator, model_validator

from har_prune.data.transforms import AUGMENTATIONS
from har_prune.errors import did_you_mean
from har_prune.runtime.settings import Settings


class DataConfig(Settings):
    """A data set, the protocol that splits it, and the batches made of it."""

    name_or_path: str = Field(
        min_length=1, description="folder or Hub id for load_dataset; 'synthetic' = data_prep/readers/synthetic.py"
    )
    subset: str | None = Field(None, description="configuration of a data set that has several")
    revision: str | None = Field(None, description="branch, tag or commit of a data set on the Hub")
    protocol: Literal["official", "loso", "trial_holdout", "holdout", "leaky_window_split"] = Field(
        "official",
        description="official: the data set's own test split; loso: one subject is the test; holdout: several are; "
        "trial_holdout: one trial in so many of every subject; leaky_window_split: windows at random, to compare with",
    )
    test_subject: str | None = Field(None, description="loso: the subject nobody trains on; all: each in turn")
    test_fraction: float = Field(0.2, gt=0, lt=1, description="trial_holdout, leaky_window_split: share that tests")
    test_subjects: tuple[str, ...] = Field((), description="holdout: the subjects nobody trains on")
    test_split: str = Field(
        "test", description="official: the split that tests; the rest but validation and test train"
    )
    validation_split: str | None = Field(
        None, description="official: the split that validates; null: one called validation, valid, val or dev"
    )
    rename_channels: dict[str, str] | None = Field(
        None, description="sensor windows: the checkpoint's name of a channel by its name in the data, {ax: acc_x}"
    )
    label_names: Literal["data", "checkpoint"] = Field(
        "data",
        description="checkpoint: the data's classes are the checkpoint's, by their names, or in its order where they "
        "are called otherwise (folders of ImageNet are called by WordNet numbers)",
    )
    max_tokens: int = Field(128, ge=2, description="texts: longer ones are cut")
    validation_fraction: float = Field(
        0.15, gt=0, lt=1, description="share of the training data that validates, where no split does"
    )
    batch_size: int = Field(64, ge=1)
    augment: tuple[str, ...] = Field((), description="applied to training batches, in this order")

    @field_validator("augment")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        known = [name for kind in AUGMENTATIONS.values() for name in kind]
        for name in names:
            if name not in known:
                raise ValueError(
                    f"unknown augmentation {name!r} (known: {', '.join(known)}).{did_you_mean(name, known)}"
                )
        return names

    @field_validator("protocol", mode="before")
    @classmethod
    def _former(cls, name: object) -> object:
        if name == "loto":
            warnings.warn("protocol loto is now trial_holdout (since 0.2)", DeprecationWarning, stacklevel=2)
            return "trial_holdout"
        return name

    @model_validator(mode="after")
    def _subjects(self) -> "DataConfig":
        if self.protocol != "official" and self.test_split != "test":
            raise ValueError("test_split goes with protocol: official")
        if self.protocol != "official" and self.validation_split is not None:
            raise ValueError("validation_split goes with protocol: official")
        if self.validation_split == self.test_split:
            raise ValueError("validation_split and test_split name the same split")
        if (self.test_subject is not None) != (self.protocol == "loso"):
            raise ValueError("test_subject goes with protocol: loso, and loso needs it")
        if bool(self.test_subjects) != (self.protocol == "holdout"):
            raise ValueError("test_subjects goes with protocol: holdout, and holdout needs it")
        return self
