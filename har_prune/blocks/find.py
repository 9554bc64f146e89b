"""find_blocks: where the residual blocks of a model are, by its family or by the probe."""

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from har_prune.blocks.families import Family, family_of, unknown_family
from har_prune.blocks.probe import probe_containers
from har_prune.blocks.stack import Block, BlockStack
from har_prune.errors import UnknownFamilyError
from har_prune.spelling import did_you_mean

_Stage = tuple[str, nn.Module, list[str | None]]  # name, container, why each child is fixed


def find_blocks(
    model: PreTrainedModel, example_inputs: dict[str, Tensor] | None = None, *, within: str | None = None
) -> BlockStack:
    """Finds the residual blocks of a model.

    Asks the family registry by `config.model_type`; a model without a family is probed in one small forward.

    Args:
        model: Any Transformers model.
        example_inputs: Inputs of at least two examples for the probe; made up when None.
        within: Dotted path of the module to look in, e.g. "vision_model", in a model of several towers.

    Returns:
        The stack; `removable` lists what may go.

    Raises:
        UnknownFamilyError: No family, and the probe found nothing, or nothing within the path, or several towers.
    """
    within = within or ""
    if within and within not in dict(model.named_modules()):
        names = [name for name, _ in model.named_modules() if name]
        raise UnknownFamilyError(f"within={within!r}: this model has no such module.{did_you_mean(within, names)}")
    tower = _tower_of(model, within)
    family, stages = _described(model, tower, within)
    if family is None:
        containers = [c for c in probe_containers(model, example_inputs) if _is_within(c.name, within)]
        if not containers:
            raise unknown_family(model.config)
        tower = _only_tower(model, [c.name for c in containers])
        family, stages = _described(model, tower, within)
        if family is None:
            stages = [(c.name, c.module, c.why_fixed) for c in containers]
    if not stages:
        raise UnknownFamilyError(f"within={within!r}: the blocks of {tower or 'this model'} lie elsewhere.")
    blocks: list[Block] = []
    for stage, (name, container, why_fixed) in enumerate(stages):
        children = list(container.children())
        if len(children) == 1:
            why_fixed = ["it is the only block of its stage"]
        for position, child in enumerate(children):
            blocks.append(Block(len(blocks), f"{name}.{position}", stage, child, why_fixed[position]))
    return BlockStack(model, blocks, family, _config_path(model.config, model.get_submodule(tower).config))


def stack_of(model: PreTrainedModel | BlockStack, example_inputs: dict[str, Tensor] | None = None) -> BlockStack:
    """The blocks of a model; a stack is its own answer, so that a choice made with `within` is kept."""
    return model if isinstance(model, BlockStack) else find_blocks(model, example_inputs)


def _described(model: PreTrainedModel, tower: str, within: str) -> tuple[Family | None, list[_Stage]]:
    """What the registry says about a tower: its family, and its stages within the path."""
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
        container = base.get_submodule(path)
        name = f"{prefix}.{path}" if prefix else path
        if _is_within(name, within):
            reasons = [family.why_fixed(stage, place, block) for place, block in enumerate(container.children())]
            stages.append((name, container, reasons))
    return family, stages


def _is_within(name: str, path: str) -> bool:
    return not path or f"{name}.".startswith(f"{path}.")


def _tower_of(model: PreTrainedModel, name: str) -> str:
    """Path of the Transformers model that a module is in, or is itself; "" for the model as a whole."""
    while name and not isinstance(model.get_submodule(name), PreTrainedModel):
        name = name.rpartition(".")[0]
    return name


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
    for name, value in inner.items():
        if value is wanted or (type(value) is type(wanted) and value.to_dict() == wanted.to_dict()):
            return (name,)
    for name, value in inner.items():
        if path := _config_path(value, wanted):
            return (name, *path)
    return None
