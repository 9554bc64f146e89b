"""`har-prune push`: uploads a saved folder."""

from pathlib import Path
from typing import Annotated

import typer


def push(
    directory: Annotated[Path, typer.Argument(help="A folder save_pruned made, e.g. runs/wharf/pruned.")],
    repo_id: Annotated[str, typer.Argument(help="owner/name; made where it does not exist.")],
    private: Annotated[
        bool | None, typer.Option("--private/--public", help="Of a repository that is made. [the account's default]")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch to commit to. [the default branch]")] = None,
    message: Annotated[str, typer.Option(help="First line of the commit.")] = "Upload with har_prune",
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Load a folder that carries somebody else's code.")
    ] = False,
) -> None:
    """Checks that a saved folder loads, and pushes it to the Hub in one commit."""
    from har_prune.checkpoints.push import push_pruned
    from har_prune.runtime.console import say

    pushed = push_pruned(
        directory,
        repo_id,
        private=private,
        revision=revision,
        commit_message=message,
        trust_remote_code=trust_remote_code,
    )
    say(f"Pushed to {pushed.url}, commit {pushed.commit}")
