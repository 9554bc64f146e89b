"""The network without each candidate, all in one forward: a batch that grows from block to block.

The network without block i is equal to the whole network up to the input of block i. So the model is called on its
inputs repeated 1 + C times, once for the whole network and once for each of C candidates, and a block runs once, on
the rows of the whole network and of every candidate that skips an earlier block. Behind it the rows of the candidate
that skips it are added: they are what the whole network had at its entry. Half of the block evaluations of removing
and running again, in as many calls of blocks as one forward makes, and the result is the same number.

Blocks are patched and not the model, whose own forward still builds masks, position tables and everything between;
pooling and head see all rows. What runs in front of the first block runs once.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from transformers import PreTrainedModel

from har_prune.blocks.stack import Block, BlockStack, first_tensor, patched_forward
from har_prune.errors import DataError, NotRemovableError, ShapeError
from har_prune.runtime.batches import inputs_of, rows_of, size_of
from har_prune.scoring.criteria.base import Criterion, Needs
from har_prune.scoring.feature_hook import FeatureHook
from har_prune.scoring.measurements import Measurements


class BlockAblation:
    """Measures a network with and without candidate blocks, one batch at a time.

    Args:
        stack: Blocks of the model, which must be in eval mode.
        candidates: Indices of the blocks to leave out, one at a time.
        criteria: {name: criterion} of those whose needs are to be measured.
        representation: As in `FeatureHook`.
        reference: A network whose representation is the reference, in eval mode; None = the model itself.

    Attributes:
        block_evaluations: Blocks run so far, each counted once for every example; a count no clock disturbs.
        stacks: Whether all candidates go through the network together; see `check_stacking`.
    """

    def __init__(
        self,
        stack: BlockStack,
        candidates: Iterable[int],
        criteria: Mapping[str, Criterion],
        representation: str | None = None,
        reference: PreTrainedModel | None = None,
    ):
        self.stack, self.candidates = stack, sorted(set(candidates))
        self._needing = {
            needs: {name: criterion for name, criterion in criteria.items() if criterion.needs == needs}
            for needs in get_args(Needs)
        }
        self._compares = bool(self._needing["features"] or self._needing["losses"])  # with and without each candidate
        self.hook = FeatureHook(stack.model, representation)
        self.reference_hook = None if reference is None else FeatureHook(reference, representation)
        self.block_evaluations = 0
        self.stacks = self._compares and bool(self.candidates)
        self._run_once: set[nn.Module] = set()  # modules in front of the blocks

    def check_stacking(self, batch: Mapping[str, Any]) -> None:
        """Compares the first and the last candidate with bypassing them, on two examples.

        A model whose output reads hidden states in front of a candidate again (a weighted sum of layers, say) cannot
        be stacked; from then on `run` bypasses the candidates one by one, which costs twice as much and is right.
        """
        if not self.stacks:
            return
        pair, labels = self._taken(rows_of(batch, [0, -1]))
        self._run_once = self._scaling_in_front(pair, rows_of(pair, [0]))
        together = self._stacked(pair, labels)
        if together is None:
            return
        for candidate in (self.candidates[0], self.candidates[-1]):
            with self.stack.bypassed(self.stack.removal_group(candidate)), self._naming(candidate):
                bypassed, _ = self._read(pair)
            # Not equality: a batch of another size or memory format may round differently.
            tolerance = 1e-4 if bypassed.dtype != torch.bfloat16 else 2e-2
            difference = (together.features[1 + self.candidates.index(candidate)] - bypassed).abs().max()
            if bool(bypassed.isfinite().all()):  # NaN is for the criterion to name
                self.stacks &= bool(difference <= tolerance * bypassed.abs().max())
        self.block_evaluations = 0

    def run(self, batch: Mapping[str, Any]) -> Measurements:
        """Measures one batch.

        Raises:
            DataError: Labels are needed and are not there, one class index for each example.
        """
        inputs, labels = self._taken(batch)
        # One example alone is bypassed: a table with a row for each network would be taken for a batch.
        found = self._stacked(inputs, labels) if self.stacks and size_of(inputs) > 1 else None
        found = found or self._one_by_one(inputs, labels)
        measured = {name: torch.stack(of_blocks) for name, of_blocks in found.values.items()}
        if found.losses is not None:
            measured |= dict.fromkeys(self._needing["losses"], found.losses[1:] - found.losses[:1])
        if self._needing["gradients"]:
            measured |= self._gradients(inputs, labels)
        reference, without = found.features[:1], found.features[1:]
        if self.reference_hook is not None and self._compares:
            reference = self.reference_hook.read(inputs)[0][None]
        if not self._compares:
            reference, without = reference[..., :0], reference.new_empty((len(self.candidates), reference.shape[1], 0))
        return Measurements(tuple(self.candidates), reference, without, measured)

    def _taken(self, batch: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
        """Inputs and labels."""
        labels = batch.get("labels")
        if (self._needing["losses"] or self._needing["gradients"]) and (labels is None or labels.ndim != 1):
            raise DataError(
                f"the criterion needs labels, one class index for each example; a batch has {', '.join(batch)}"
                f"{'' if labels is None else f' with labels of shape {tuple(labels.shape)}'}. "
                "Add them, or choose a criterion that needs none, e.g. cka."
            )
        return inputs_of(batch), labels

    def _stacked(self, inputs: Mapping[str, Any], labels: Tensor | None) -> "_Forward | None":
        """The whole network and all candidates in one forward; None where the model does not do that."""
        try:
            return self._forward(inputs, labels, 1 + len(self.candidates))
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, TypeError, AttributeError, LookupError):
            self.stacks = False  # what is wrong with the inputs themselves will be said again
            return None

    def _one_by_one(self, inputs: Mapping[str, Any], labels: Tensor | None) -> "_Forward":
        found = self._forward(inputs, labels, 1)
        for candidate in self.candidates if self._compares else ():
            group = self.stack.removal_group(candidate)
            with self.stack.bypassed(group), self._naming(candidate):
                features, output = self._read(inputs)
            self.block_evaluations += (len(self.stack) - len(group)) * size_of(inputs)
            found.features = torch.cat([found.features, features[None]])
            if found.losses is not None and labels is not None:
                found.losses = torch.cat([found.losses, _losses(output, labels)[None]])
        return found

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

    def _read(self, inputs: Mapping[str, Any]) -> tuple[Tensor, Any]:
        """Representation and output; without a head that nobody reads, such as a language model's vocabulary."""
        head = None if self._needing["losses"] else self.hook.head
        with patched_forward({} if head is None else {head: _no_output_of(head)}):
            return self.hook.read(inputs)

    def _forward(self, inputs: Mapping[str, Any], labels: Tensor | None, networks: int) -> "_Forward":
        """One forward of the whole network, and with it of those without a candidate, where `networks` is above 1."""
        run = _Forward(networks, size_of(inputs), {name: [] for name in self._needing["hidden_states"]})
        positions = inputs.get("attention_mask")
        forwards = {block.module: self._growing(block, run, positions) for block in self.stack.blocks}
        if networks > 1:
            inputs = {k: torch.cat([v] * networks) if isinstance(v, Tensor) else v for k, v in inputs.items()}
            forwards |= {module: _once(module, run) for module in self._run_once}
        with patched_forward(forwards):
            features, output = self._read(inputs)
        if networks > 1 and len(features) != networks * run.examples:
            raise ShapeError(f"{len(features)} representations of {networks} networks and {run.examples} examples.")
        run.features = features.unflatten(0, (networks, -1))
        if self._needing["losses"] and labels is not None:
            run.losses = _losses(output, labels.repeat(networks)).unflatten(0, (networks, -1))
        return run

    def _growing(self, block: Block, run: "_Forward", positions: Tensor | None) -> Callable:
        """A block that runs on the rows there are, and hands on with them those of the candidates that skip it."""
        module, original = block.module, block.module.forward
        starts = block.index in self.candidates and (run.networks > 1 or bool(run.values))
        skipping = [first for first in self.candidates if self.stack.removal_group(first)[-1] == block.index]

        def forward(*args: Any, **kwargs: Any) -> Any:
            entry = first_tensor(args, kwargs)
            whole = len(entry) // run.held
            if starts:
                run.entries[block.index] = entry[:whole].clone()  # some blocks write into it
            if run.networks > 1:
                cut = entry[: whole * run.active]
                args, kwargs = tree_map(lambda v: cut if v is entry else run.cut(v, run.active), (args, kwargs))
            output = original(*args, **kwargs)
            self.stack.note_output(module, output)
            self.block_evaluations += run.active * run.examples
            after = output if isinstance(output, Tensor) else output[0]
            added = [run.entries.pop(first) for first in skipping if first in run.entries]
            if run.values:
                for first, before in zip(skipping, added, strict=True):
                    self._compare(first, before, after[: len(after) // run.active], run, positions)
            run.active += len(added) if run.networks > 1 else 0
            run.held = run.active
            if run.networks == 1 or not added:
                return output
            return self.stack.as_output(module, torch.cat([after, *(rows.to(after.device) for rows in added)]))

        return forward

    def _compare(self, first: int, before: Tensor, after: Tensor, run: "_Forward", positions: Tensor | None) -> None:
        """What the criteria of hidden states make of a candidate."""
        if len(after) != run.examples:
            raise ShapeError(
                f"block {first} ({self.stack.names[first]!r}) has no score by {', '.join(run.values)}: its "
                f"hidden state {tuple(after.shape)} is not one row for each of {run.examples} examples."
            )
        module = self.stack.blocks[first].module
        before, after = _as_positions(before.to(after.device), module), _as_positions(after, module)
        for name, criterion in self._needing["hidden_states"].items():
            run.values[name].append(criterion.of_block(before, after, _mask(before, positions), None))

    def _scaling_in_front(self, two: Mapping[str, Any], one: Mapping[str, Any]) -> set[nn.Module]:
        """Modules that run once, in front of the first block, and return twice the rows for two examples."""
        lengths: list[dict[nn.Module, list[int]]] = []
        blocks = {block.module for block in self.stack.blocks}
        for inputs in (two, one):
            found: dict[nn.Module, list[int]] = {}
            lengths.append(found)

            def note(module: nn.Module, args: Any, output: Any, found: dict = found) -> None:
                seen = module in found or not blocks.isdisjoint(found)
                leaves = [value for value in tree_leaves(output) if isinstance(value, Tensor)]
                found[module] = [] if seen else [len(value) if value.ndim else 0 for value in leaves]

            outside = _outside_blocks(self.stack.model, blocks)
            handles = [module.register_forward_hook(note) for module in (*outside, *blocks)]
            self._read(inputs)
            for handle in handles:
                handle.remove()
        halved = lengths[1]
        return {
            module for module, rows in lengths[0].items()
            if module not in blocks and rows and rows == [2 * length for length in halved.get(module, [])]
        }  # fmt: skip

    def _gradients(self, inputs: Mapping[str, Any], labels: Tensor) -> dict[str, Tensor]:
        """One forward and one backward; gradients of the loss at the output of each candidate."""
        entries: dict[int, Tensor] = {}
        outputs: dict[int, Tensor] = {}

        def listening(block: Block) -> Callable:
            original = block.module.forward

            def forward(*args: Any, **kwargs: Any) -> Any:
                entry = first_tensor(args, kwargs)
                if not entry.requires_grad:  # nothing before the first block needs a gradient
                    wanting = entry.detach().requires_grad_()
                    args, kwargs = tree_map(lambda value: wanting if value is entry else value, (args, kwargs))
                entries[block.index] = entry.detach().clone()
                output = original(*args, **kwargs)
                outputs[block.index] = output if isinstance(output, Tensor) else output[0]
                self.block_evaluations += len(entry)
                return output

            return forward

        ends = [self.stack.removal_group(candidate)[-1] for candidate in self.candidates]
        with torch.enable_grad(), patched_forward({block.module: listening(block) for block in self.stack.blocks}):
            loss = _losses(self.stack.model(**inputs), labels).sum()
            # Not backward(): the user's parameters keep the gradients they have.
            found = torch.autograd.grad(loss, [outputs[end] for end in ends])
        values: dict[str, list[Tensor]] = {name: [] for name in self._needing["gradients"]}
        for candidate, end, gradient in zip(self.candidates, ends, found, strict=True):
            states = (entries[candidate].to(gradient.device), outputs[end].detach(), gradient)
            before, after, slope = (_as_positions(state, self.stack.blocks[end].module) for state in states)
            for name, criterion in self._needing["gradients"].items():
                value = criterion.of_block(before, after, _mask(before, inputs.get("attention_mask")), slope)
                values[name].append(value.to(found[-1].device))  # blocks may lie on several devices
        return {name: torch.stack(numbers) for name, numbers in values.items()}


@dataclass
class _Forward:
    """One forward on the way, and what it found.

    Args:
        networks: How often the inputs are repeated: once for the whole network, once for each candidate.
        examples: Rows of the inputs as they were.
        values: {name: [one number for each example [N], for each candidate]} of criteria of hidden states.

    Attributes:
        held: Networks that the hidden state has rows of; a network's rows are neighbours.
        active: Networks that run through the next block; the others are still the whole network.
        entries: What a removal group that has begun was given.
        features: [networks, N, D].
        losses: [networks, N].
    """

    networks: int
    examples: int
    values: dict[str, list[Tensor]]
    active: int = 1
    entries: dict[int, Tensor] = field(default_factory=dict)
    features: Tensor = field(default_factory=lambda: torch.empty(0))
    losses: Tensor | None = None

    def __post_init__(self) -> None:
        self.held = self.networks

    def cut(self, value: Any, networks: int) -> Any:
        """The rows of the first networks of a tensor that has rows of all; anything else as it is."""
        if isinstance(value, Tensor) and value.ndim and len(value) % (self.networks * self.examples) == 0:
            return value[: len(value) // self.networks * networks]
        return value


def _once(module: nn.Module, run: _Forward) -> Callable:
    """A forward on the rows of one network, repeated for all."""
    original = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = tree_map(lambda value: run.cut(value, 1), (args, kwargs))
        output = original(*args, **kwargs)
        return tree_map(lambda v: torch.cat([v] * run.networks) if isinstance(v, Tensor) else v, output)

    return forward


def _no_output_of(head: nn.Linear) -> Callable:
    """A forward that computes nothing and takes no memory, in the shape of the output."""
    return lambda states: states.new_zeros(()).expand(*states.shape[:-1], head.out_features)


def _outside_blocks(module: nn.Module, blocks: set[nn.Module]) -> Iterator[nn.Module]:
    """The largest modules that neither hold blocks nor lie in one."""
    for child in module.children():
        if child in blocks:
            continue
        if blocks.isdisjoint(child.modules()):
            yield child
        else:
            yield from _outside_blocks(child, blocks)


def _as_positions(states: Tensor, block: nn.Module) -> Tensor:
    """[N, positions, D]: images [N, D, H, W] by pixel, plain features [N, D] as one position.

    Other models keep features last, whatever they have between (PatchTST: [N, channels, patches, D]).
    """
    if states.ndim == 4 and any(isinstance(module, nn.Conv2d) for module in block.modules()):
        return states.flatten(2).mT
    return states[:, None] if states.ndim == 2 else states.flatten(1, -2)


def _mask(states: Tensor, attention_mask: Tensor | None) -> Tensor:
    if attention_mask is not None and attention_mask.shape == states.shape[:2]:
        return attention_mask.to(states.device).double()
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
