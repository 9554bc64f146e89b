"""Folders that appear whole."""

import pytest

from har_prune.errors import OutputFolderError
from har_prune.runtime.files import whole_folder


def test_the_folder_one_is_in_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputFolderError, match="name another"), whole_folder(tmp_path.relative_to(tmp_path)):
        pass
    with whole_folder(tmp_path / "new") as folder:
        (folder / "file").write_text("x")
    assert (tmp_path / "new" / "file").read_text() == "x"
