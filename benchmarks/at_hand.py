"""Small data for benchmarks, out of what is installed: handwritten digits, and what docstrings are of which package.

    python benchmarks/at_hand.py                 # data/digits, data/docstrings, checkpoints/bert_docstrings

Digits are those of scikit-learn. A text is the first paragraph of a docstring and its class the package it stands in;
modules are either in train, validation or test. The BERT is small and trained from scratch, with a tokenizer made of
the training texts.
"""

import argparse
import ast
import hashlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tokenizers import Tokenizer
from tokenizers.implementations import BertWordPieceTokenizer
from torch.utils.data import DataLoader
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

from har_prune import TrainConfig, evaluate_model, train_model

PACKAGES = ("matplotlib", "networkx", "numpy", "pandas", "scipy", "sklearn", "sympy", "torch", "transformers")
_OF_EACH = {"train": 800, "validation": 200, "test": 200}  # texts of a package, at most
_LENGTH = 48  # tokens


def digits(folder: Path) -> None:
    """1,797 images of 8 x 8 pixels, a fifth of them for testing."""
    images, labels = load_digits(return_X_y=True)
    pixels = (images.reshape(-1, 8, 8) * 15.9375).astype(np.uint8)
    features = Features({"image": Image(), "label": ClassLabel(names=[str(digit) for digit in range(10)])})
    parts = dict(zip(("train", "test"), train_test_split(np.arange(len(labels)), test_size=0.2, random_state=0,
                                                         stratify=labels), strict=True))  # fmt: skip
    DatasetDict({
        name: Dataset.from_dict(
            {"image": [np.repeat(pixels[row][..., None], 3, axis=2) for row in rows], "label": labels[rows].tolist()},
            features=features,
        )
        for name, rows in parts.items()
    }).save_to_disk(folder)  # fmt: skip


def paragraphs(package: str) -> dict[str, list[str]]:
    """First paragraphs of a package's docstrings, without its name, by the split of their module."""
    spec = find_spec(package)
    root = Path(spec.submodule_search_locations[0] if spec and spec.submodule_search_locations else "")
    digests = {path: _digest(path.relative_to(root.parent).as_posix()) for path in root.rglob("*.py")}
    found: dict[str, list[str]] = {split: [] for split in _OF_EACH}
    seen: set[str] = set()
    for path in sorted(digests, key=digests.__getitem__):  # an order without a pattern: most files need not be read
        split = {0: "test", 1: "validation"}.get(digests[path] % 10, "train")
        if len(found[split]) >= _OF_EACH[split]:
            continue
        try:
            nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        except (SyntaxError, UnicodeDecodeError):
            continue
        documented = (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)
        for text in (ast.get_docstring(node) or "" for node in nodes if isinstance(node, documented)):
            first = " ".join(text.split("\n\n")[0].split())
            if 40 <= len(first) <= 300 and package not in first.lower() and first not in seen:
                seen.add(first)
                found[split].append(first)
    return {split: texts[: _OF_EACH[split]] for split, texts in found.items()}


def _digest(name: str) -> int:
    return int(hashlib.sha256(name.encode()).hexdigest(), 16)


def docstrings(folder: Path) -> DatasetDict:
    """Texts and packages."""
    rows: dict[str, dict[str, list]] = {split: {"text": [], "label": []} for split in _OF_EACH}
    for label, package in enumerate(PACKAGES):
        for split, texts in paragraphs(package).items():
            rows[split]["text"] += texts
            rows[split]["label"] += [label] * len(texts)
    features = Features({"text": Value("string"), "label": ClassLabel(names=list(PACKAGES))})
    data = DatasetDict({split: Dataset.from_dict(of, features=features) for split, of in rows.items()})
    data.save_to_disk(folder)
    return data


def bert(data: DatasetDict, folder: Path, epochs: float = 6) -> None:
    """A BERT of 8 layers, 128 wide."""
    made = BertWordPieceTokenizer(lowercase=True)
    made.train_from_iterator(data["train"]["text"], vocab_size=6000, show_progress=False)
    tokenizer = BertTokenizerFast(tokenizer_object=Tokenizer.from_str(made.to_str()), model_max_length=_LENGTH)
    names = dict(enumerate(PACKAGES))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=128, num_hidden_layers=8, num_attention_heads=4, intermediate_size=256,
        max_position_embeddings=_LENGTH, id2label=names, label2id={name: label for label, name in names.items()},
    )  # fmt: skip
    model = BertForSequenceClassification(config)

    def batches(split: str, size: int, shuffle: bool = False) -> DataLoader:
        def together(rows: list[dict]) -> dict[str, torch.Tensor]:
            texts = [row["text"] for row in rows]
            given = dict(tokenizer(texts, padding=True, truncation=True, max_length=_LENGTH, return_tensors="pt"))
            return given | {"labels": torch.tensor([row["label"] for row in rows])}

        return DataLoader(list(data[split]), size, shuffle=shuffle, collate_fn=together)

    schedule = TrainConfig(epochs=epochs, learning_rate=1e-3, weight_decay=0.05, warmup=0.1, keep="best")
    train_model(model, batches("train", 64, shuffle=True), batches("validation", 256), schedule)
    print(f"BERT: {100 * evaluate_model(model, batches('test', 256)).accuracy:.2f} % on the test texts")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    """Makes what is not there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path())
    root = parser.parse_args().root
    if not (root / "data/digits").exists():
        digits(root / "data/digits")
    if not (root / "checkpoints/bert_docstrings").exists():
        bert(docstrings(root / "data/docstrings"), root / "checkpoints/bert_docstrings")


if __name__ == "__main__":
    main()
