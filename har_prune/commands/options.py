"""Options that several commands share: a checkpoint, its data, and who tests."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from har_prune.data.config import DataConfig

Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of the checkpoint.")]
DataRevision = Annotated[str | None, typer.Option(help="The same of the data set.")]
DataSubset = Annotated[str | None, typer.Option(help="Configuration of a data set that has several.")]
Trust = Annotated[bool, typer.Option("--trust-remote-code", help="Run code of the checkpoint; read it first.")]
TestSubject = Annotated[
    list[str] | None, typer.Option(help="Subject nobody looks at (sensor data without a test split); repeatable.")
]
Rename = Annotated[
    list[str] | None, typer.Option(help="DATA=MODEL: a channel's name in the data and in the checkpoint. Repeatable.")
]
DataSettings = Annotated[
    list[str] | None, typer.Argument(help="Any other key of a recipe's data, e.g. data.test_split=validation.")
]
Data = Annotated[str, typer.Option(help="Folder or Hub id for load_dataset; 'synthetic' for a trial.")]
NumThreads = Annotated[int | None, typer.Option(min=1, help="CPU threads. [OMP_NUM_THREADS, else all cores]")]


def data_config(
    data: str,
    subset: str | None,
    revision: str | None,
    test_subject: list[str] | None,
    rename_channel: list[str] | None,
    settings: list[str] | None = None,
    batch_size: int | None = None,
) -> "DataConfig":
    """The data section that these options stand for: the data's own test split, or the subjects that were named.

    Raises:
        BadParameter: A setting is none of data.
        RecipeError: One is unknown, or has a value that is not allowed.
    """
    from har_prune.data.config import DataConfig
    from har_prune.recipe.load import apply_overrides, settings_of

    values: dict[str, Any] = {
        "name_or_path": data,
        "subset": subset,
        "revision": revision,
        "protocol": "holdout" if test_subject else "official",
        "test_subjects": tuple(test_subject or ()),
        "rename_channels": renamed(rename_channel),
        **({} if batch_size is None else {"batch_size": batch_size}),
    }
    wrong = next((setting for setting in settings or () if not setting.startswith("data.")), None)
    if wrong is not None:
        raise typer.BadParameter(f"{wrong!r} is no setting of data, such as data.test_split=validation")
    apply_overrides(values, [setting.removeprefix("data.") for setting in settings or ()])
    return settings_of(DataConfig, values, "what is said of the data")


def renamed(pairs: list[str] | None) -> dict[str, str] | None:
    """New names by former ones.

    Raises:
        typer.BadParameter: One is not DATA=MODEL.
    """
    named = [pair.partition("=") for pair in pairs or ()]
    wrong = next((pair for pair, parts in zip(pairs or (), named, strict=True) if not all(parts)), None)
    if wrong is not None:
        raise typer.BadParameter(f"--rename-channel {wrong!r} is not DATA=MODEL, e.g. ax=acc_x")
    return {former: new for former, _, new in named} or None
