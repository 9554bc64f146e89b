"""The sweep: the representation without each candidate, with the common prefix computed once.

The network without block i is equal to the whole network up to the input of block i. So one forward keeps the
hidden state at the entry of each candidate, and for each candidate only the blocks behind it run again. That is half
of the block evaluations of removing and re-running, and the result is the same number.

The blocks are patched and not the model: blocks before the candidate hand their input through, the candidate
returns the kept state, and the model's own forward still builds masks, position tables and everything between.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from har_prune.blocks.stack import BlockStack, first_tensor, patched_forward
from har_prune.scoring.representation import RepresentationTap


class Sweep:
    """Computes representations with and without candidate blocks, one batch at a time.

    Args:
        stack: Blocks of the model, which must be in eval mode.
        candidates: Indices of the blocks to leave out, one at a time.
        representation: As in `RepresentationTap`.

    Attributes:
        block_evaluations: Blocks run so far; a count of the work that no clock disturbs.
        replays: Whether the prefix is reused; see `check_replay`.
    """

    def __init__(self, stack: BlockStack, candidates: Iterable[int], representation: str | None = None):
        self.stack = stack
        self.candidates = sorted(set(candidates))
        self.tap = RepresentationTap(stack.model, representation)
        self.block_evaluations = 0
        self.replays = True

    def check_replay(self, batch: Mapping[str, Any]) -> None:
        """Compares one replay with one bypass on two examples.

        A model whose output reads hidden states of the prefix again (a weighted sum of layers, say) cannot be
        replayed; from then on `run` bypasses the candidates one by one, which costs twice as much and is right.
        """
        if not self.candidates:
            return
        few = {key: value[:2] for key, value in batch.items()}
        last = self.candidates[-1]
        _, features = self.run(few)
        replayed = dict(features)[last]
        with self.stack.bypassed([last]):
            bypassed = self.tap(few)
        # Not equality: a batch of another memory layout may round differently.
        self.replays = bool((replayed - bypassed).abs().max() <= 1e-4 * bypassed.abs().max())
        self.block_evaluations = 0

    def run(self, batch: Mapping[str, Any]) -> tuple[Tensor, Iterator[tuple[int, Tensor]]]:
        """The representation [N, D] of a batch, and lazily (block, representation without it) for each candidate.

        A kept hidden state is dropped as soon as its candidate is done; consume the iterator before the next batch.
        """
        kept: dict[int, Tensor] = {}
        wanted = set(self.candidates)
        forwards = {
            block.module: self._recording(block.index, block.module, kept if block.index in wanted else None)
            for block in self.stack.blocks
        }
        with patched_forward(forwards):
            reference = self.tap(batch)
        return reference, self._replayed(batch, kept) if self.replays else self._bypassed(batch)

    def _bypassed(self, batch: Mapping[str, Any]) -> Iterator[tuple[int, Tensor]]:
        for candidate in self.candidates:
            with self.stack.bypassed([candidate]):
                features = self.tap(batch)
            self.block_evaluations += len(self.stack) - 1
            yield candidate, features

    def _replayed(self, batch: Mapping[str, Any], kept: dict[int, Tensor]) -> Iterator[tuple[int, Tensor]]:
        for candidate in self.candidates:
            forwards = {block.module: self._handing_through(block.module) for block in self.stack.blocks[:candidate]}
            module = self.stack.blocks[candidate].module
            forwards[module] = self._handing_through(module, kept.pop(candidate))
            with patched_forward(forwards):
                features = self.tap(batch)
            self.block_evaluations += len(self.stack) - candidate - 1
            yield candidate, features

    def _recording(self, index: int, module: nn.Module, kept: dict[int, Tensor] | None) -> Callable:
        original = module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            if kept is not None:
                # Cloned: some blocks (transformers' ResNet) write into activations in place.
                kept[index] = first_tensor(args, kwargs).clone()
            output = original(*args, **kwargs)
            self.stack.note_output(module, output)
            self.block_evaluations += 1
            return output

        return forward

    def _handing_through(self, module: nn.Module, state: Tensor | None = None) -> Callable:
        """A forward that returns the given state, or else what it is given."""

        def forward(*args: Any, **kwargs: Any) -> Any:
            return self.stack.as_output(module, first_tensor(args, kwargs) if state is None else state)

        return forward
