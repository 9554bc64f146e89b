import gzip
import shutil
import sys

import pytest
from datasets import load_dataset
from own_map import OWN_MAP

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


@pytest.fixture
def prepared(prepare, tmp_path):
    """Prepares files by these keys of the map: what was said, (label, start, values) of each window, the card."""

    def run(files, keys, code=0, *options):
        raw, out = tmp_path / "raw", tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        shutil.rmtree(raw, ignore_errors=True)
        for name, content in files.items():
            (raw / name).parent.mkdir(parents=True, exist_ok=True)
            if name.lower().endswith(".parquet"):
                content.to_parquet(raw / name)
            else:
                text = content if isinstance(content, str) else content.to_csv(index=False)
                (raw / name).write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
        known = [line for line in OWN_MAP.splitlines() if line.split(":")[0] not in keys]
        (tmp_path / "map.yaml").write_text(
            "\n".join([*known, *(f"{key}: {value}" for key, value in keys.items()), ""])
        )
        found, said = prepare("csv", raw, out, "--columns", tmp_path / "map.yaml", "--window-s", "1", "--overlap", "0",
                              *options)  # fmt: skip
        assert found == code, said
        if code:
            assert not out.exists()
            return said
        rows = load_dataset("parquet", data_dir=str(out), split="train")
        named = [(rows.features["label"].int2str(row["label"]), row["start_s"], row["input_values"]) for row in rows]
        return said, named, (out / "README.md").read_text()

    return run
