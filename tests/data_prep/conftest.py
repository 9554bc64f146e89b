import sys

import pytest

from data_prep.__main__ import main


@pytest.fixture
def prepare(monkeypatch, capsys):
    """`python -m data_prep ...` in this process: exit code and what it said."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["data_prep", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit:
            main()
        return exit.value.code, " ".join(capsys.readouterr().err.split())

    return run
