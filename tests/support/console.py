"""`har-prune run` in this process, and what a refusal must look like."""

from accelerate.state import AcceleratorState
from typer.testing import CliRunner

from har_prune.commands.app import app


def run_recipe(recipe, out, *overrides):
    AcceleratorState._reset_state(reset_partial_state=True)  # a user's run is a process of its own
    # One thread: several test workers share the cores.
    return CliRunner().invoke(app, ["run", str(recipe), f"output_dir={out}", "num_threads=1", *overrides])


def short_run(out):
    """The folder of a run that has trained and healed for a few steps, three blocks to two."""
    done = run_recipe(
        "quickstart", out, "train.epochs=0.1", "heal.epochs=0.1", "controls=[]", "evaluate.latency=false",
        "model.config.num_hidden_layers=3", "model.config.hidden_size=16", "prune.target={blocks: 2}",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    return out


def refused(result, *words):
    text = " ".join(result.output.split())
    assert result.exit_code == 2, text
    for word in words:
        assert word in text, text
    assert "Traceback" not in text
