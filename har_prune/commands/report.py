"""`har-prune report`: one page of one or several runs."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs that have ended, or their history.json.")],
    output: Annotated[Path, typer.Option(help="File to write.")] = Path("report.html"),
) -> None:
    """Writes a self-contained page: what was removed, what it did, beside controls; several runs side by side."""
    from har_prune.errors import OutputFolderError
    from har_prune.reporting.html.page import report_page
    from har_prune.runtime.console import say
    from har_prune.runtime.files import whole_file

    if output.is_dir():
        raise OutputFolderError(f"{output} is a folder: --output names a file, e.g. {output / 'report.html'}.")
    page = report_page(runs)
    output.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(output) as partial:
        partial.write_text(page, encoding="utf-8")
    say(f"Report: {output} ({len(page.encode()) / 1024:,.0f} KiB); it needs nothing but a browser")
