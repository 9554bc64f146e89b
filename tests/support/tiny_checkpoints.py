"""Tiny local checkpoints and data sets in the format of those on the Hub that recipes name."""

from pathlib import Path

import numpy as np
import transformers as t
from datasets import ClassLabel, Dataset, Features, Image, Value
from families import TOKENS, WIDTHS, classifier, llama, resnet_basic, vit
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

_WORDS = ["[PAD]", "[UNK]", "</s>", "good", "bad", "film", "plot", "is", "a", "the", "very", "not", "long", "short"]
_NAMES = ["joy", "anger", "fear"]


def _write(folder: Path, splits: dict[str, int], features: Features, row) -> Path:
    data = folder / "data"
    data.mkdir(parents=True)
    for split, count in splits.items():
        table = Dataset.from_list([row(i) for i in range(count)], features=features)
        table.to_parquet(data / f"{split}-00000-of-00001.parquet")
    return data


def _images(folder: Path, sizes: list[tuple[int, int]], splits: dict[str, int]) -> Path:
    generator = np.random.default_rng(0)
    features = Features({"image": Image(), "labels": ClassLabel(names=_NAMES)})

    def row(i: int) -> dict:
        return {"image": generator.integers(0, 256, (*sizes[i % len(sizes)], 3), dtype=np.uint8), "labels": i % 3}

    return _write(folder, splits, features, row)


def _sentence(i: int) -> str:
    generator = np.random.default_rng(i)
    return " ".join(_WORDS[j] for j in generator.integers(3, len(_WORDS), 3 + i % 5))


def _tokenizer(folder: Path, **special: str) -> t.PreTrainedTokenizerFast:
    model = Tokenizer(WordLevel({word: index for index, word in enumerate(_WORDS)}, unk_token="[UNK]"))
    model.pre_tokenizer = Whitespace()
    tokenizer = t.PreTrainedTokenizerFast(
        tokenizer_object=model, unk_token="[UNK]", eos_token="</s>", model_max_length=32, **special
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def _named(model: t.PreTrainedModel) -> t.PreTrainedModel:
    model.config.id2label = dict(enumerate(_NAMES))
    model.config.label2id = {name: index for index, name in enumerate(_NAMES)}
    return model


def make_vit(folder: Path) -> tuple[Path, Path]:
    """Images of one size, larger than the model's."""
    data = _images(folder, [(24, 24)], {"train": 45, "validation": 9, "test": 15})
    _named(vit()).save_pretrained(folder / "model")
    t.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder / "model")
    return data, folder / "model"


def make_resnet50(folder: Path) -> tuple[Path, Path]:
    """Images of several sizes, and no split called test."""
    data = _images(folder, [(40, 30), (30, 40), (36, 36)], {"train": 45, "validation": 15})
    _named(resnet_basic()).save_pretrained(folder / "model")
    t.ConvNextImageProcessor(size={"shortest_edge": 32}).save_pretrained(folder / "model")
    return data, folder / "model"


def make_mobilenet_v2(folder: Path) -> tuple[Path, Path]:
    """Images in folders called by WordNet numbers, and a head with a class in front that they do not have."""
    import numpy as np
    import PIL.Image

    generator = np.random.default_rng(0)
    for split, count in (("train", 15), ("val", 5)):
        for name in ("n01440764", "n01443537", "n01484850"):
            (folder / "data" / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (40 + number, 36, 3), dtype=np.uint8)
                PIL.Image.fromarray(pixels).save(folder / "data" / split / name / f"{number}.png")
    names = dict(enumerate(["background", *_NAMES]))
    config = t.MobileNetV2Config(image_size=64, depth_multiplier=0.25, id2label=names)
    t.MobileNetV2ForImageClassification(config).save_pretrained(folder / "model")
    t.MobileNetV2ImageProcessor(size={"shortest_edge": 72}, crop_size={"height": 64, "width": 64}).save_pretrained(
        folder / "model"
    )
    return folder / "data", folder / "model"


def make_bert(folder: Path) -> tuple[Path, Path]:
    """Sentences with classes; the last of each split is not labelled."""
    features = Features({"text": Value("string"), "label": ClassLabel(names=_NAMES)})
    splits = {"train": 46, "validation": 10, "test": 16}
    counts = iter([i for count in splits.values() for i in [*range(count - 1), -1]])
    data = _write(
        folder, splits, features, lambda i: {"text": _sentence(i), "label": -1 if next(counts) < 0 else i % 3}
    )
    model = classifier(t.BertForSequenceClassification, num_hidden_layers=4, **WIDTHS, **TOKENS)
    _named(model).save_pretrained(folder / "model")
    _tokenizer(folder / "model", pad_token="[PAD]")
    return data, folder / "model"


def make_llama(folder: Path) -> tuple[Path, Path]:
    """Lines of text, some of them empty, for a model in bf16 whose tokenizer has no padding token."""
    data = _write(
        folder, {"train": 45, "test": 15}, Features({"text": Value("string")}),
        lambda i: {"text": "" if i % 7 == 3 else _sentence(i)},
    )  # fmt: skip
    import torch

    llama(depth=4).to(torch.bfloat16).save_pretrained(folder / "model")
    _tokenizer(folder / "model")
    return data, folder / "model"


MAKERS = {
    "vit": make_vit,
    "resnet50": make_resnet50,
    "mobilenet_v2": make_mobilenet_v2,
    "bert": make_bert,
    "llama": make_llama,
}
