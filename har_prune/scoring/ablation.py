"""The sweep: the network without each candidate, with the common prefix computed once.

The network without block i is equal to the whole network up to the input of block i. So one forward keeps the
hidden state at the entry of each candidate, and for each candidate only the blocks behind it run again. That is half
of the block evaluations of removing and re-running, and the result is the same number.

The blocks are patched and not the model: blocks before the candidate hand their input through, the candidate
returns the kept state, and the model's own forward still builds masks, position tables and everything between. Modules
outside the blocks that ran before the candidate (embeddings, say) return what they returned.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from har_prune.blocks.stack import BlockStack, first_tensor, patched_forward
from har_prune.errors import DataError, NotRemovableError, ShapeError
from har_prune.runtime.batches import inputs_of, rows_of, size_of
from har_prune.scoring.criteria.base import Criterion
from har_prune.scoring.feature_hook import FeatureHook
from har_prune.scoring.measurements import Measurements


@dataclass(frozen=True)
class Wanted:
    """What a sweep is to measure.

    Args:
        features: Representations with and without each candidate.
        losses: Names under which the growth of the loss without each candidate is wanted; goes with features.
        hidden_states: {name: `of_block`} for criteria of block input and output.
        gradients: The same for criteria that also need the gradient of the loss.
    """

    features: bool = False
    losses: tuple[str, ...] = ()
    hidden_states: dict[str, Callable] = field(default_factory=dict)
    gradients: dict[str, Callable] = field(default_factory=dict)

    @classmethod
    def by(cls, criteria: Mapping[str, Criterion]) -> "Wanted":
        """What some criteria need together."""
        of: dict[str, dict[str, Any]] = {"hidden_states": {}, "gradients": {}}
        for name, criterion in criteria.items():
            if criterion.needs in of:
                of[criterion.needs][name] = criterion.of_block
        losses = tuple(name for name, criterion in criteria.items() if criterion.needs == "losses")
        features = any(criterion.needs in ("features", "losses") for criterion in criteria.values())
        return cls(features, losses, **of)

    @property
    def labels(self) -> bool:
        """Whether the batches need labels."""
        return bool(self.losses or self.gradients)


class BlockAblation:
    """Measures a network with and without candidate blocks, one batch at a time.

    Args:
        stack: Blocks of the model, which must be in eval mode.
        candidates: Indices of the blocks to leave out, one at a time.
        wanted: What to measure.
        representation: As in `FeatureHook`.
        reference: A network whose representation is the reference, in eval mode; None = the model itself.

    Attributes:
        block_evaluations: Blocks run so far, each counted once for every example; a count no clock disturbs.
        replays: Whether the prefix is reused; see `check_replay`.
    """

    def __init__(
        self,
        stack: BlockStack,
        candidates: Iterable[int],
        wanted: Wanted,
        representation: str | None = None,
        reference: PreTrainedModel | None = None,
    ):
        self.stack, self.wanted = stack, wanted
        self.candidates = sorted(set(candidates))
        self.hook = FeatureHook(stack.model, representation)
        self.reference_hook = None if reference is None else FeatureHook(reference, representation)
        self.block_evaluations = 0
        self.replays = True
        self._copies = False
        self._outside = list(_outside_blocks(stack.model, {block.module for block in stack.blocks}))

    def check_replay(self, batch: Mapping[str, Any]) -> None:
        """Compares the replays of the first and the last candidate with bypassing them, on two examples.

        A model whose output reads hidden states of the prefix again (a weighted sum of layers, say) cannot be
        replayed; from then on `run` bypasses the candidates one by one, which costs twice as much and is right.
        """
        if not self.candidates or not self.wanted.features:
            return
        example_inputs = rows_of(batch, slice(2))
        measured = self.run(example_inputs)
        for candidate in (self.candidates[0], self.candidates[-1]):
            replayed = measured.without[self.candidates.index(candidate)]
            with self.stack.bypassed(self.stack.removal_group(candidate)):
                bypassed, _ = self.hook.read(inputs_of(example_inputs))
            # Not equality: a batch in another memory format may round differently.
            tolerance = 1e-4 if bypassed.dtype != torch.bfloat16 else 2e-2
            if not bool((replayed - bypassed).abs().max() <= tolerance * bypassed.abs().max()):
                self.replays = not bool(bypassed.isfinite().all())  # NaN is for the criterion to name
        self.block_evaluations = 0

    def run(self, batch: Mapping[str, Any]) -> Measurements:
        """Measures one batch.

        Raises:
            DataError: Labels are needed and are not there, one class index for each example.
        """
        inputs = inputs_of(batch)
        labels: Any = batch.get("labels")
        if self.wanted.labels and (labels is None or labels.ndim != 1):
            raise DataError(
                f"the criterion needs labels, one class index for each example; a batch has {', '.join(batch)}"
                f"{'' if labels is None else f' with labels of shape {tuple(labels.shape)}'}. "
                "Add them, or choose a criterion that needs none, e.g. cka."
            )
        values: dict[str, list[Tensor]] = {name: [] for name in self.wanted.hidden_states}
        replaying = self.replays and self.wanted.features
        examples = size_of(inputs)
        record = _Record({} if replaying else None, values, _positions(inputs), examples)
        reference, output = self._whole(inputs, record)
        if record.kept is not None and any(state.was_changed for state in record.kept.values()):
            self._copies = True  # some blocks write into their input: keep copies from now on
            return self.run(batch)
        without, losses = [], []
        if self.wanted.features:
            runs = self._replayed(inputs, record) if replaying else self._bypassed(inputs)
            for features, changed in runs:
                without.append(features)
                if self.wanted.losses:
                    losses.append(_losses(changed, labels) - _losses(output, labels))
        measured = {name: torch.stack(found) for name, found in values.items()}
        if losses:
            measured |= dict.fromkeys(self.wanted.losses, torch.stack(losses))
        if self.wanted.gradients:
            measured |= self._gradients(inputs, labels)
        if self.reference_hook is not None and self.wanted.features:
            reference, _ = self.reference_hook.read(inputs)
        return Measurements(
            tuple(self.candidates),
            reference[None] if self.wanted.features else reference.new_empty((1, len(reference), 0)),
            torch.stack(without) if without else reference.new_empty((len(self.candidates), len(reference), 0)),
            measured,
        )

    def _whole(self, inputs: Mapping[str, Any], record: "_Record") -> tuple[Tensor, Any]:
        """The whole network, with everything recorded that the replays will need."""
        forwards = {block.module: self._recording(block.index, block.module, record) for block in self.stack.blocks}
        if record.kept is not None:
            forwards |= {module: self._remembering(module, record) for module in self._outside}
        with patched_forward(forwards):
            return self.hook.read(inputs)

    def _recording(self, index: int, module: nn.Module, record: "_Record") -> Callable:
        original = module.forward
        candidate = index in self.candidates
        ended = [first for first in self.candidates if self.stack.removal_group(first)[-1] == index]

        def forward(*args: Any, **kwargs: Any) -> Any:
            entry = first_tensor(args, kwargs)
            if candidate and record.kept is not None:
                record.kept[index] = _Kept(entry.clone() if self._copies else entry)
            record.started += 1
            if candidate and record.values:
                record.entries[index] = entry.clone()  # some blocks write into it
            output = original(*args, **kwargs)
            self.stack.note_output(module, output)
            self.block_evaluations += len(entry)
            for first in ended if record.values else ():
                before = record.entries.pop(first)
                after = output if isinstance(output, Tensor) else output[0]
                pair = _as_positions(before, module), _as_positions(after, module)
                if len(after) != record.examples:
                    raise ShapeError(
                        f"block {first} ({self.stack.names[first]!r}) has no score by {', '.join(record.values)}: its "
                        f"hidden state {tuple(after.shape)} is not one row for each of {record.examples} examples."
                    )
                for name, of_block in self.wanted.hidden_states.items():
                    record.values[name].append(of_block(*pair, record.mask(pair[0]), None))
            return output

        return forward

    def _remembering(self, module: nn.Module, record: "_Record") -> Callable:
        original = module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            output = original(*args, **kwargs)
            # A module that runs twice in a forward cannot be told apart; it always runs.
            record.returned[module] = None if module in record.returned else (record.started, _Kept(output))
            return output

        return forward

    def _bypassed(self, inputs: Mapping[str, Any]) -> Iterator[tuple[Tensor, Any]]:
        for candidate in self.candidates:
            group = self.stack.removal_group(candidate)
            with self.stack.bypassed(group), self._naming(candidate):
                read = self.hook.read(inputs)
            self.block_evaluations += (len(self.stack) - len(group)) * len(read[0])
            yield read

    def _replayed(self, inputs: Mapping[str, Any], record: "_Record") -> Iterator[tuple[Tensor, Any]]:
        kept = record.kept or {}
        for candidate in self.candidates:
            forwards: dict[nn.Module, Callable] = {
                module: _returning(module, remembered[1])
                for module, remembered in record.returned.items()
                if remembered is not None and remembered[0] <= candidate
            }
            last = self.stack.removal_group(candidate)[-1]
            for block in self.stack.blocks[:last]:
                forwards[block.module] = self._handing_through(block.module)
            module = self.stack.blocks[last].module
            # A kept hidden state is dropped as soon as its candidate is done.
            forwards[module] = self._handing_through(module, kept.pop(candidate).value)
            with patched_forward(forwards), self._naming(candidate):
                read = self.hook.read(inputs)
            self.block_evaluations += (len(self.stack) - last - 1) * len(read[0])
            yield read

    @contextmanager
    def _naming(self, candidate: int) -> Iterator[None]:
        """A network that does not run without a block says which."""
        try:
            yield
        except (AttributeError, TypeError, LookupError) as error:
            raise NotRemovableError(
                f"block {candidate} ({self.stack.names[candidate]!r}) has no score: the network does not run without "
                f"it ({type(error).__name__}: {error}). Leave it out of `candidates`."
            ) from error

    def _handing_through(self, module: nn.Module, state: Tensor | None = None) -> Callable:
        """A forward that returns the given state, or else what it is given."""

        def forward(*args: Any, **kwargs: Any) -> Any:
            return self.stack.as_output(module, first_tensor(args, kwargs) if state is None else state)

        return forward

    def _gradients(self, inputs: Mapping[str, Any], labels: Tensor) -> dict[str, Tensor]:
        """One forward and one backward; gradients of the loss at the output of each candidate."""
        entries: dict[int, Tensor] = {}
        outputs: dict[int, Tensor] = {}

        def listening(index: int, module: nn.Module) -> Callable:
            original = module.forward

            def forward(*args: Any, **kwargs: Any) -> Any:
                entry = first_tensor(args, kwargs)
                if not entry.requires_grad:  # nothing before the first block needs a gradient
                    args = tuple(value.detach().requires_grad_() if value is entry else value for value in args)
                    kwargs = {k: v.detach().requires_grad_() if v is entry else v for k, v in kwargs.items()}
                entries[index] = entry.detach().clone()
                output = original(*args, **kwargs)
                outputs[index] = output if isinstance(output, Tensor) else output[0]
                self.block_evaluations += len(entry)
                return output

            return forward

        with (
            torch.enable_grad(),
            patched_forward({block.module: listening(block.index, block.module) for block in self.stack.blocks}),
        ):
            loss = _losses(self.stack.model(**inputs), labels).sum()
            # Not backward(): the user's parameters keep the gradients they have.
            ends = [self.stack.removal_group(candidate)[-1] for candidate in self.candidates]
            found = torch.autograd.grad(loss, [outputs[end] for end in ends])
        values: dict[str, list[Tensor]] = {name: [] for name in self.wanted.gradients}
        for candidate, end, gradient in zip(self.candidates, ends, found, strict=True):
            module = self.stack.blocks[end].module
            before, after = (_as_positions(state.detach(), module) for state in (entries[candidate], outputs[end]))
            mask = _mask(before, _positions(inputs))
            for name, of_block in self.wanted.gradients.items():
                values[name].append(of_block(before, after, mask, _as_positions(gradient, module)))
        return {name: torch.stack(numbers) for name, numbers in values.items()}


class _Kept:
    """A value kept for the replays, which notices when somebody writes into it."""

    def __init__(self, value: Any):
        self.value = value
        self._versions = self._now()

    def _now(self) -> list[int]:
        values = self.value if isinstance(self.value, (tuple, list)) else (self.value,)
        return [value._version for value in values if isinstance(value, Tensor)]

    @property
    def was_changed(self) -> bool:
        return self._now() != self._versions


@dataclass
class _Record:
    """What the whole forward leaves for the replays and for criteria of hidden states.

    `kept` is None when nothing is replayed; `started` counts blocks that have begun; `returned` holds for each module
    outside the blocks how many blocks had begun when it ran, and its output; `entries` what groups that still run were
    given.
    """

    kept: dict[int, _Kept] | None
    values: dict[str, list[Tensor]]
    attention_mask: Tensor | None
    examples: int
    started: int = 0
    entries: dict[int, Tensor] = field(default_factory=dict)
    returned: dict[nn.Module, tuple[int, _Kept] | None] = field(default_factory=dict)

    def mask(self, states: Tensor) -> Tensor:
        return _mask(states, self.attention_mask)


def _returning(module: nn.Module, kept: _Kept) -> Callable:
    original = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs) if kept.was_changed else kept.value

    return forward


def _outside_blocks(module: nn.Module, blocks: set[nn.Module]) -> Iterator[nn.Module]:
    """The largest modules that neither hold blocks nor lie in one."""
    for child in module.children():
        if child in blocks:
            continue
        if blocks.isdisjoint(child.modules()):
            yield child
        else:
            yield from _outside_blocks(child, blocks)


def _positions(inputs: Mapping[str, Any]) -> Tensor | None:
    return inputs.get("attention_mask")


def _as_positions(states: Tensor, block: nn.Module) -> Tensor:
    """[N, positions, D]: images [N, D, H, W] by pixel, plain features [N, D] as one position.

    Other models keep features last, whatever they have between (PatchTST: [N, channels, patches, D]).
    """
    if states.ndim == 4 and any(isinstance(module, nn.Conv2d) for module in block.modules()):
        return states.flatten(2).mT
    return states[:, None] if states.ndim == 2 else states.flatten(1, -2)


def _mask(states: Tensor, attention_mask: Tensor | None) -> Tensor:
    if attention_mask is not None and attention_mask.shape == states.shape[:2]:
        return attention_mask.double()
    return torch.ones(states.shape[:2], dtype=torch.float64, device=states.device)


def _losses(output: Any, labels: Tensor) -> Tensor:
    """Cross-entropy of each example in nats, [N]."""
    logits = getattr(output, "logits", None)
    if logits is None or logits.ndim != 2:
        raise DataError("the criterion needs a classifier, whose output has logits [N, classes].")
    if not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
        raise DataError(
            f"labels go from {int(labels.min())} to {int(labels.max())} and the model tells {logits.shape[1]} classes "
            "apart (0 to one less): leave out examples without a label (-100), or choose a criterion that needs none."
        )
    return nn.functional.cross_entropy(logits.double(), labels.to(logits.device), reduction="none")
