"""What several processes agree on."""

from typing import TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

Value = TypeVar("Value")


def agreed(value: Value, accelerator: Accelerator | None) -> Value:
    """The main process's value, in all of them: last bits differ between devices, and a decision must not.

    Args:
        value: Something that can be pickled.
        accelerator: Joins the processes; None = there is one.
    """
    if accelerator is None or accelerator.num_processes == 1:
        return value
    return broadcast_object_list([value])[0]
