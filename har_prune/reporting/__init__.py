"""Tables and plots of a run."""

from har_prune.reporting.summary import summary_table
from har_prune.reporting.trajectory import plot_trajectory, trajectory_markdown

__all__ = ["plot_trajectory", "summary_table", "trajectory_markdown"]
