"""find_blocks: where the residual blocks of a model are, by its family or by the probe."""

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from har_prune.blocks.families import Family, family_of, unknown_family
from har_prune.blocks.probe import probe_containers
from har_prune.blocks.stack import ONLY_ONE, Block, BlockStack, config_at
from har_prune.errors import NotAModelError, NotRemovableError, UnknownFamilyError, did_you_mean

_Stage = tuple[str, nn.Module, list[str | None]]  # name, container, why each child is fixed


def find_blocks(
    model: PreTrainedModel, example_inputs: dict[str, Tensor] | None = None, *, within: str | None = None
) -> BlockStack:
    """Finds the residual blocks of a model.

    Asks the family registry by `config.model_type`; a model without a family is probed in one small forward.

    Args:
        model: Any Transformers model.
        example_inputs: Inputs of at least two examples for the probe; made up when None. The stack keeps them for
            later checks.
        within: Dotted path of a module, e.g. "vision_model" in a model of several towers: its tower is looked at, and
            blocks outside of the path stay.

    Returns:
        The stack; `removable` lists what may go.

    Raises:
        NotAModelError: Not a model of transformers, or one that is wrapped.
        UnknownFamilyError: No family, and the probe found nothing, or nothing within the path, or several towers; or
            an encoder-decoder model.
        NotRemovableError: `config.har_prune` speaks of another number of blocks than there are.
    """
    if not isinstance(model, PreTrainedModel):
        raise NotAModelError(
            f"{type(model).__name__} is no model of transformers: give a PreTrainedModel. One that is wrapped is in "
            "`.module` (DataParallel, DistributedDataParallel) or `._orig_mod` (torch.compile); from one of peft "
            "`.merge_and_unload()` makes one."
        )
    if getattr(model.config, "is_encoder_decoder", False):
        raise UnknownFamilyError(
            f"{type(model).__name__} (model_type={model.config.model_type!r}) is an encoder-decoder model, and their "
            "depth cannot be changed yet: take its encoder alone (e.g. T5EncoderModel), or a model that is one stack."
        )
    within = within or ""
    if within and within not in dict(model.named_modules()):
        names = [name for name, _ in model.named_modules() if name]
        raise UnknownFamilyError(f"within={within!r}: this model has no such module.{did_you_mean(within, names)}")
    tower = _tower_of(model, within)
    family, stages = _described(model, tower)
    if family is None:
        containers = [c for c in probe_containers(model, example_inputs) if _is_within(c.name, tower)]
        wanted = [c.name for c in containers if _is_within(c.name, within)]
        if not wanted:
            raise UnknownFamilyError(unknown_family(model.get_submodule(tower).config))
        tower = _only_tower(model, wanted)
        family, stages = _described(model, tower)
        if family is None:
            inside = [c for c in containers if _is_within(c.name, tower)]
            stages = [(c.name, c.module, c.why_fixed) for c in inside]
    path = _config_path(model.config, model.get_submodule(tower).config)
    originals = _original_indices(config_at(model.config, path), sum(len(reasons) for _, _, reasons in stages))
    blocks: list[Block] = []
    for stage, (name, container, why_fixed) in enumerate(stages):
        children = list(container.children())
        if len(children) == 1:
            why_fixed = [ONLY_ONE]
        if not _is_within(name, within):
            why_fixed = [f"it lies outside of {within!r}"] * len(children)
        for position, child in enumerate(children):
            index = len(blocks)
            blocks.append(Block(index, originals[index], f"{name}.{position}", stage, child, why_fixed[position]))
    if not any(_is_within(block.name, within) for block in blocks):
        raise UnknownFamilyError(f"within={within!r}: the blocks lie elsewhere, from {blocks[0].name!r} on.")
    return BlockStack(model, blocks, family, path, example_inputs, within or None)


def stack_of(model: PreTrainedModel | BlockStack, example_inputs: dict[str, Tensor] | None = None) -> BlockStack:
    """The blocks of a model; a stack is its own answer, so that a choice made with `within` is kept."""
    return model if isinstance(model, BlockStack) else find_blocks(model, example_inputs)


def _described(model: PreTrainedModel, tower: str) -> tuple[Family | None, list[_Stage]]:
    """What the registry says about a tower: its family, and its stages."""
    root: Any = model.get_submodule(tower)
    family = family_of(root.config)
    if family is None:
        return None, []
    base = root.base_model
    prefix = ".".join(part for part in (tower, "" if base is root else root.base_model_prefix) if part)
    head, star, tail = family.containers.partition(".*.")
    paths = [head]
    if star:
        paths = [f"{head}.{i}.{tail}" for i in range(len(list(base.get_submodule(head).children())))]
    stages: list[_Stage] = []
    for stage, path in enumerate(paths):
        try:
            container = base.get_submodule(path)
        except AttributeError as error:
            raise UnknownFamilyError(
                f"the family of model_type={root.config.model_type!r} says that blocks are in {path!r} of "
                f"{type(base).__name__}, and there is no such module: correct `containers`."
            ) from error
        reasons = [family.why_fixed(stage, place, block) for place, block in enumerate(container.children())]
        stages.append((f"{prefix}.{path}" if prefix else path, container, reasons))
    return family, stages


def _original_indices(config: Any, count: int) -> list[int]:
    """For every block its index in the network before the first removal, as `config.har_prune` tells it."""
    provenance = getattr(config, "har_prune", None) or {}
    removed = set(provenance.get("removed_blocks", ()))
    depth = provenance.get("original_depth", count)
    originals = [index for index in range(depth) if index not in removed]
    if len(originals) != count:
        raise NotRemovableError(
            f"config.har_prune says that {len(originals)} of {depth} blocks are left, and this model has {count}: it "
            "was changed since. Delete config.har_prune to start from what is there."
        )
    return originals


def _is_within(name: str, path: str) -> bool:
    return not path or f"{name}.".startswith(f"{path}.")


def _tower_of(model: PreTrainedModel, name: str) -> str:
    """Path of the Transformers model a module belongs to: the largest that has one config; "" for the whole model."""
    parts = name.split(".") if name else []
    paths = [".".join(parts[:count]) for count in range(len(parts) + 1)]
    towers = [path for path in paths if isinstance(model.get_submodule(path), PreTrainedModel)]
    config = model.get_submodule(towers[-1]).config
    return next(path for path in towers if model.get_submodule(path).config is config)


def _only_tower(model: PreTrainedModel, containers: list[str]) -> str:
    towers = {_tower_of(model, name) for name in containers}
    configs = {id(model.get_submodule(tower).config) for tower in towers}
    if len(configs) > 1:
        raise UnknownFamilyError(
            f"{type(model).__name__} has blocks in several towers: {', '.join(map(repr, sorted(towers)))}. Choose one "
            f"with find_blocks(model, within={min(towers)!r})."
        )
    return min(towers, key=len)


def _config_path(config: PreTrainedConfig, wanted: PreTrainedConfig) -> tuple[str, ...] | None:
    """Names that lead from a config to one inside it. Towers may hold a copy, so equal content counts as well."""
    if config is wanted:
        return ()
    inner = {name: value for name, value in vars(config).items() if isinstance(value, PreTrainedConfig)}
    for is_wanted in (lambda value: value is wanted, lambda value: _content(value) == _content(wanted)):
        for name, value in inner.items():
            if is_wanted(value):
                return (name,)
    for name, value in inner.items():
        if path := _config_path(value, wanted):
            return (name, *path)
    return None


def _content(config: PreTrainedConfig) -> tuple[type, dict[str, Any]]:
    return type(config), config.to_dict()
