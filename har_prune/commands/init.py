"""`har-prune init`: writes a recipe for a checkpoint and a data set, with comments, to be edited."""

from pathlib import Path
from typing import Annotated

import typer

from har_prune.commands.options import (
    Data,
    DataRevision,
    DataSettings,
    DataSubset,
    Rename,
    Revision,
    TestSubject,
    Trust,
    data_config,
)


def init(
    checkpoint: Annotated[str, typer.Argument(help="Folder or Hub id of a trained classifier or language model.")],
    data: Data,
    settings: DataSettings = None,
    test_subject: TestSubject = None,
    rename_channel: Rename = None,
    revision: Revision = None,
    data_revision: DataRevision = None,
    data_subset: DataSubset = None,
    trust_remote_code: Trust = False,
    output: Annotated[Path, typer.Option(help="File to write.")] = Path("recipe.yaml"),
) -> None:
    """Looks at a checkpoint and a data set, and writes a commented recipe for them."""
    from har_prune.checkpoints.load import Checkpoint
    from har_prune.errors import OutputFolderError
    from har_prune.recipe.draft import draft
    from har_prune.recipe.load import load_recipe
    from har_prune.recipe.prepare import prepared_for
    from har_prune.runtime.console import say
    from har_prune.runtime.files import whole_file

    if output.exists():
        raise OutputFolderError(f"{output} exists: choose another --output, or remove it first.")
    config = data_config(data, data_subset, data_revision, test_subject, rename_channel, settings)
    source = Checkpoint(checkpoint, revision, trust_remote_code)
    text = draft(prepared_for(source, config, seed=0), source, config, output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(output) as partial:
        partial.write_text(text, encoding="utf-8")
    load_recipe(output)
    say(f"{output}: read it, change it, then `har-prune run {output}` (--dry-run shows the plan)")
