"""The network without each candidate, all in one forward: a batch that grows from block to block.

The network without block i is equal to the whole network up to the input of block i. So the model is called on its
inputs repeated 1 + C times, once for the whole network and once for each of C candidates, and a block runs once, on
the rows of the whole network and of every candidate that skips an earlier block. Behind it the rows of the candidate
that skips it are added: they are what the whole network had at its entry. Half of the block evaluations of removing
and running again, in as many calls of blocks as one forward makes, and the result is the same number.

Blocks are patched and not the model, whose own forward still builds masks, position tables and everything between;
pooling and head see all rows. What runs in front of the first block runs once.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten
from transformers import PreTrainedModel

from har_prune.blocks.stack import Block, BlockStack, first_tensor, patched_forward
from har_prune.errors import DataError, NotRemovableError, ShapeError
from har_prune.runtime.batches import as_computed, inputs_of, rows_of, size_of
from har_prune.runtime.feature_hook import FeatureHook
from har_prune.scoring.criteria.base import Criterion, Needs
from har_prune.scoring.measurements import Measurements
from har_prune.scoring.outputs import as_positions, losses_of, positions_mask


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
        self._needing = {needs: {n: c for n, c in criteria.items() if c.needs == needs} for needs in get_args(Needs)}
        self._compares = bool(self._needing["features"] or self._needing["losses"])  # with and without each candidate
        self.hook = FeatureHook(stack.model, representation)
        self.reference_hook = None if reference is None else FeatureHook(reference, representation)
        self.block_evaluations = 0
        self.stacks = self._compares and bool(self.candidates)
        self._growing_arguments: dict[nn.Module, list[bool | None]] = {}  # one for each leaf; None = not seen
        self._run_once: set[nn.Module] = set()  # modules in front of the blocks
        self._ends_at_head = False

    def check_stacking(self, batch: Mapping[str, Any]) -> None:
        """Compares the first and the last candidate with bypassing them, on two examples.

        A model whose output reads hidden states in front of a candidate again (a weighted sum of layers, say) cannot
        be stacked; from then on `run` bypasses the candidates one by one, which costs twice as much and is right.
        """
        if not self.stacks:
            return
        pair, labels = self._taken(rows_of(batch, [0, -1]))
        try:
            self._look(pair, rows_of(pair, [0]))
        except (RuntimeError, ValueError, TypeError, AttributeError, LookupError) as error:
            self._give_up(error)  # what is wrong with the inputs themselves will be said again
            return
        together = self._stacked(pair, labels)
        if together is None:
            return
        rough = torch.is_autocast_enabled(together.features.device.type) or any(
            parameter.dtype in (torch.bfloat16, torch.float16) for parameter in self.stack.model.parameters()
        )
        for candidate in (self.candidates[0], self.candidates[-1]):
            with self.stack.bypassed(self.stack.removal_group(candidate)), self._naming(candidate):
                bypassed, _ = self._read(pair)
            found = together.features[1 + self.candidates.index(candidate)]
            # Not equality: a batch of another size or memory format may round differently. NaN is for the criterion
            # to name.
            near = (2e-2 if rough else 1e-4) * bypassed.abs().max()
            if found.shape != bypassed.shape or (bypassed.isfinite().all() and (found - bypassed).abs().max() > near):
                self._give_up(f"block {candidate} has another representation so than alone")
                return

    def _give_up(self, reason: Any) -> None:
        if self.stacks:
            warnings.warn(
                f"the network without each block runs by itself, which takes twice as long: {reason}", stacklevel=2
            )
        self.stacks = False

    def run(self, batch: Mapping[str, Any]) -> Measurements:
        """Measures one batch.

        Raises:
            DataError: Labels are needed and are not there, one class index for each example.
        """
        inputs, labels = self._taken(batch)
        found = self._stacked(inputs, labels) if self.stacks else None
        if found is None and not (self._compares or self._needing["hidden_states"]):
            found = _Forward(1, size_of(inputs), {}, features=torch.empty(1, size_of(inputs), 0))  # gradients alone
        found = found or self._one_by_one(inputs, labels)
        measured = {
            name: torch.stack([of_blocks[index].to(found.features.device) for index in self.candidates])
            for name, of_blocks in found.values.items()
        }
        if found.losses is not None:
            measured |= dict.fromkeys(self._needing["losses"], found.losses[1:] - found.losses[:1])
        if self._needing["gradients"]:
            measured |= self._gradients(inputs, labels)
        reference, without = found.features[:1], found.features[1:]
        if self.reference_hook is not None and self._compares:
            reference = self.reference_hook.read(inputs)[0][None].to(without.device)
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
        return as_computed(inputs_of(batch), self.stack.model), labels

    def _stacked(self, inputs: Mapping[str, Any], labels: Tensor | None) -> "_Forward | None":
        """The whole network and all candidates in one forward; None where the model does not do that."""
        try:
            return self._forward(inputs, labels, 1 + len(self.candidates))
        except (torch.OutOfMemoryError, DataError):
            raise
        except (RuntimeError, ValueError, TypeError, AttributeError, LookupError) as error:
            self._give_up(error)
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
                found.losses = torch.cat([found.losses, losses_of(output, labels)[None]])
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
        return self.hook.read(inputs, without_head=self._ends_at_head)

    def _forward(self, inputs: Mapping[str, Any], labels: Tensor | None, networks: int) -> "_Forward":
        """One forward of the whole network, and with it of those without a candidate, where `networks` is above 1."""
        run = _Forward(networks, size_of(inputs), {name: {} for name in self._needing["hidden_states"]})
        positions = inputs.get("attention_mask")
        forwards = {block.module: self._growing(block, run, positions) for block in self.stack.blocks}
        if networks > 1:
            inputs = {k: torch.cat([v] * networks) if isinstance(v, Tensor) else v for k, v in inputs.items()}
            forwards |= {module: self._once(module, run) for module in self._run_once}
        with patched_forward(forwards):
            features, output = self._read(inputs)
        if networks > 1 and len(features) != networks * run.examples:
            raise ShapeError(f"{len(features)} representations of {networks} networks and {run.examples} examples.")
        order = [0, *(1 + run.added.index(index) for index in self.candidates)] if networks > 1 else [0]
        run.features = features.unflatten(0, (networks, -1))[order]
        if self._needing["losses"] and labels is not None:
            run.losses = losses_of(output, labels.repeat(networks)).unflatten(0, (networks, -1))[order]
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
                args, kwargs = self._cut(module, run, run.active, (args, kwargs), entry)
            output = original(*args, **kwargs)
            self.stack.note_output(module, output)
            self.block_evaluations += run.active * run.examples
            after = output if isinstance(output, Tensor) else output[0]
            skipped = [first for first in skipping if first in run.entries]
            added = [run.entries.pop(first) for first in skipped]
            for first, before in zip(skipped, added, strict=True) if run.values else ():
                self._compare(first, before, after[: len(after) // run.active], run, positions)
            if run.networks > 1:
                run.active, run.added = run.active + len(added), run.added + skipped
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
        before, after = as_positions(before.to(after.device), module), as_positions(after, module)
        mask = positions_mask(self.stack.model, before, positions)
        for name, criterion in self._needing["hidden_states"].items():
            if first in run.values[name]:
                raise NotRemovableError(
                    f"block {first} ({self.stack.names[first]!r}) has no score by {name!r}: it runs more than once. "
                    "Leave it out of `candidates`, or choose a criterion that compares networks, e.g. cka."
                )
            run.values[name][first] = criterion.of_block(before, after, mask, None)

    def _cut(self, module: nn.Module, run: "_Forward", networks: int, given: Any, entry: Tensor | None = None) -> Any:
        """Arguments with the rows of the first networks, in place of those of all; `entry` has rows of fewer."""
        leaves, structure = tree_flatten(given)
        growing = self._growing_arguments.get(module, [])
        growing = growing if len(growing) == len(leaves) else [None] * len(leaves)
        rows = None if entry is None else entry[: len(entry) // run.held * networks]
        pairs = zip(leaves, growing, strict=True)
        cut = [
            rows if leaf is entry and entry is not None else run.cut(leaf, networks, grows) for leaf, grows in pairs
        ]
        return tree_unflatten(cut, structure)

    def _once(self, module: nn.Module, run: "_Forward") -> Callable:
        """A forward on the rows of one network, repeated for all."""
        original = module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            args, kwargs = self._cut(module, run, 1, (args, kwargs))
            output = original(*args, **kwargs)
            return tree_map(lambda v: torch.cat([v] * run.networks) if isinstance(v, Tensor) else v, output)

        return forward

    def _look(self, two: Mapping[str, Any], one: Mapping[str, Any]) -> None:
        """Sees in forwards of two examples and of one what grows with them, what runs once in front, and what last."""
        blocks, head = {block.module for block in self.stack.blocks}, self.hook.head
        outside = {*_outside_blocks(self.stack.model, blocks), *([] if head is None else [head])}
        taken, given = [], []  # by module, the first dimensions of arguments, and of what is returned
        for inputs in (two, one):
            arguments: dict[nn.Module, list[int | None]] = {}
            returned: dict[nn.Module, list[int | None]] = {}

            def enter(module: nn.Module, args: Any, kwargs: Any, arguments: dict = arguments) -> None:
                arguments[module] = _lengths((args, kwargs))

            def leave(module: nn.Module, args: Any, output: Any, returned: dict = returned) -> None:
                once_in_front = module not in returned and blocks.isdisjoint(returned)
                returned[module] = _lengths(output) if once_in_front else []

            modules = (*outside, *blocks)
            handles = [module.register_forward_pre_hook(enter, with_kwargs=True) for module in modules]
            handles += [module.register_forward_hook(leave) for module in modules]
            try:
                self.hook.read(inputs)
            finally:
                for handle in handles:
                    handle.remove()
            taken.append(arguments)
            given.append(returned)
        for module, lengths in taken[0].items():
            pairs = zip(lengths, taken[1].get(module, ()), strict=False)
            self._growing_arguments[module] = [
                None if two_rows is None or one_row is None else two_rows == 2 * one_row for two_rows, one_row in pairs
            ]
        for module in outside & set(given[0]):
            doubled = [2 * length for length in given[1].get(module, ()) if length is not None]
            if doubled and doubled == [length for length in given[0][module] if length is not None]:
                self._run_once.add(module)
        ran = list(given[0])
        self._ends_at_head = not self._needing["losses"] and head in ran and blocks <= set(ran[: ran.index(head)])

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
            loss = losses_of(self.stack.model(**inputs), labels).sum()
            # Not backward(): the user's parameters keep the gradients they have.
            found = torch.autograd.grad(loss, [outputs[end] for end in ends])
        values: dict[str, list[Tensor]] = {name: [] for name in self._needing["gradients"]}
        for candidate, end, gradient in zip(self.candidates, ends, found, strict=True):
            states = (entries[candidate].to(gradient.device), outputs[end].detach(), gradient)
            before, after, slope = (as_positions(state, self.stack.blocks[end].module) for state in states)
            mask = positions_mask(self.stack.model, before, inputs.get("attention_mask"))
            for name, criterion in self._needing["gradients"].items():
                # Blocks may lie on several devices.
                values[name].append(criterion.of_block(before, after, mask, slope).to(found[-1].device))
        return {name: torch.stack(numbers) for name, numbers in values.items()}


@dataclass
class _Forward:
    """One forward on the way, and what it found.

    Args:
        networks: How often the inputs are repeated: once for the whole network, once for each candidate.
        examples: Rows of the inputs as they were.
        values: {name: {candidate: one number for each example [N]}} of criteria of hidden states.

    Attributes:
        added: Candidates in the order in which their rows came.
        held: Networks that the hidden state has rows of; a network's rows are neighbours.
        active: Networks that run through the next block; the others are still the whole network.
        entries: What a removal group that has begun was given.
        features: [networks, N, D].
        losses: [networks, N].
    """

    networks: int
    examples: int
    values: dict[str, dict[int, Tensor]]
    active: int = 1
    added: list[int] = field(default_factory=list)
    entries: dict[int, Tensor] = field(default_factory=dict)
    features: Tensor = field(default_factory=lambda: torch.empty(0))
    losses: Tensor | None = None

    def __post_init__(self) -> None:
        self.held = self.networks

    def cut(self, value: Any, networks: int, grows: bool | None) -> Any:
        """The rows of the first networks of a tensor that has rows of all; anything else as it is.

        Where nobody has seen whether it grows with the examples, it does when its rows are a multiple of theirs.
        """
        if not isinstance(value, Tensor) or not value.ndim:
            return value
        if grows is None:
            grows = len(value) % (self.networks * self.examples) == 0
        return value[: len(value) // self.networks * networks] if grows else value


def _lengths(values: Any) -> list[int | None]:
    """First dimension of each leaf; None where it is no tensor, or has none."""
    return [len(leaf) if isinstance(leaf, Tensor) and leaf.ndim else None for leaf in tree_leaves(values)]


def _outside_blocks(module: nn.Module, blocks: set[nn.Module]) -> Iterator[nn.Module]:
    """The largest modules that neither hold blocks nor lie in one."""
    for child in module.children():
        if child in blocks:
            continue
        if blocks.isdisjoint(child.modules()):
            yield child
        else:
            yield from _outside_blocks(child, blocks)
