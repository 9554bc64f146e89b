"""How the processes of a run share examples: by rows of each batch, without padding."""

from collections.abc import Mapping
from typing import Any

from accelerate import Accelerator


def own_rows(batch: Mapping[str, Any], accelerator: Accelerator | None) -> dict[str, Any] | None:
    """This process's rows of a batch that all processes see: every num_processes-th.

    Nothing is padded and nothing is seen twice, whatever the batch size.

    Returns:
        The rows; None when there are none for this process.
    """
    processes, rank = (accelerator.num_processes, accelerator.process_index) if accelerator else (1, 0)
    rows = {key: value[rank::processes] for key, value in batch.items()}
    return rows if len(next(iter(rows.values()))) else None
