"""What is measured of every network of a run; the recipe's `evaluate` section."""

from pydantic import Field

from har_prune.runtime.settings import Settings


class EvaluateConfig(Settings):
    """What is measured beside the metrics, which always are."""

    latency: bool = Field(True, description="time one example of each network, in turns with the original")
