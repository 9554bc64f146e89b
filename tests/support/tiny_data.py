"""Tiny data for the loop: three classes a small network learns in seconds."""

import torch
from torch.utils.data import DataLoader

LABELS = 3


def windows(count: int, seed: int) -> list[dict]:
    """Examples as dicts of tensors: a sine per class in noise, [32, 6]."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(32) / 32
    examples = []
    for number in range(count):
        label = number % LABELS
        wave = torch.sin(2 * torch.pi * (1 + 2 * label) * time + 6 * torch.rand(1, generator=generator))
        values = wave[:, None] + 0.3 * torch.randn(32, 6, generator=generator)
        examples.append({"input_values": values, "labels": torch.tensor(label)})
    return examples


def loader(count: int = 48, seed: int = 0, *, shuffle: bool = False) -> DataLoader:
    """Batches of 16."""
    return DataLoader(windows(count, seed), batch_size=16, shuffle=shuffle)


def texts(lengths: list[int], seed: int, batch_size: int) -> DataLoader:
    """Random tokens of some lengths, padded to the longest, each to be predicted from those before it."""
    torch.manual_seed(seed)
    most, rows = max(lengths), []
    for length in lengths:
        tokens, mask = torch.randint(3, 50, (most,)), (torch.arange(most) < length).long()
        rows.append(
            {"input_ids": tokens * mask, "attention_mask": mask, "labels": tokens.masked_fill(mask == 0, -100)}
        )
    return DataLoader(rows, batch_size=batch_size)
