"""The energy of an example: an estimate of codecarbon, never called a measurement."""

import logging
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from har_prune.errors import RecipeError
from har_prune.evaluation.config import EvaluateConfig
from har_prune.evaluation.measurement import Network, register_measurement
from har_prune.runtime.batches import inputs_for

_SECONDS = 10.0  # long enough for codecarbon to look several times
_KWH = 3.6e6  # joules


@register_measurement("energy")
@dataclass(frozen=True)
class Energy:
    """An estimate of the energy of one forward.

    Args:
        joules: Of one example; of the whole machine's processor, memory and GPU, as far as the method sees them.
        forwards: Forwards it is a mean over.
        method: Where the number comes from: a counter of the processor, or its rated power times the load.
    """

    joules: float
    forwards: int
    method: str

    @property
    def figures(self) -> dict[str, float]:
        """Millijoules of an example, as an estimate."""
        return {"energy, one example, mJ (estimate)": 1000 * self.joules}

    @classmethod
    def check(cls, config: EvaluateConfig, data: object) -> None:
        """Refuses a run that asks for it where codecarbon is missing."""
        if config.energy:
            _tracker()

    @classmethod
    def measure(cls, network: Network) -> "Energy | None":
        """Estimates it; on the main process alone, or several would count each other's work."""
        if not network.config.energy or not network.is_healed or not network.accelerator.is_main_process:
            return None
        return estimate_energy(network.model, network.example_inputs)


@torch.no_grad()
def estimate_energy(model: PreTrainedModel, example_inputs: dict[str, Tensor], seconds: float = _SECONDS) -> Energy:
    """Runs a network for some seconds and asks codecarbon, which makes no connection, for the energy.

    Args:
        model: The network, on the device to look at.
        example_inputs: Model inputs of one example, [1, ...] each.
        seconds: How long.

    Raises:
        RecipeError: codecarbon is not installed.
    """
    tracker = _tracker()
    inputs, forwards = inputs_for(model, example_inputs), 0
    was_training = model.training
    model.eval()
    try:
        model(**inputs)
        tracker.start()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            model(**inputs)
            forwards += 1
    finally:
        tracker.stop()
        model.train(was_training)
    data = tracker.final_emissions_data
    kinds = [str(getattr(part, "_mode", "")) for part in getattr(tracker, "_hardware", [])]
    counted = any("rapl" in kind or "power_gadget" in kind for kind in kinds)
    method = "codecarbon, counters of the processor" if counted else "codecarbon, rated power times load"
    return Energy(_KWH * data.energy_consumed / forwards, forwards, method)


def _tracker() -> Any:
    try:
        from codecarbon import OfflineEmissionsTracker
    except ImportError as error:
        raise RecipeError(
            "the energy of a network is estimated with codecarbon, which is not installed: "
            "pip install 'har_prune[energy]', or leave evaluate.energy out."
        ) from error
    logging.getLogger("codecarbon").setLevel(logging.ERROR)
    # The country only matters for grams of CO2, which nobody asks for here.
    return OfflineEmissionsTracker(
        country_iso_code="USA", measure_power_secs=1, save_to_file=False, log_level="error", allow_multiple_runs=True
    )
