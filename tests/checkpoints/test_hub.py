"""Pushing and pulling with a real huggingface_hub client against a hub on loopback."""

import json
import os
import subprocess
import sys

import pytest
import torch
from families import har_transformer, llama, vit
from fresh import logits_in_fresh_process
from hub_server import READ, WRITE, serving
from tiny_checkpoints import MAKERS
from transformers import ViTImageProcessor

from har_prune import HarFeatureExtractor, remove_blocks, save_pruned
from har_prune.blocks.example_inputs import example_inputs
from har_prune.checkpoints.contents import files_of
from har_prune.checkpoints.push import _explained
from har_prune.errors import CheckpointError, HubError


@pytest.fixture
def hub():
    with serving() as running:
        yield running


@pytest.fixture
def folder(tmp_path):
    return save_pruned(remove_blocks(vit(), [1]), tmp_path / "pruned")


def _environment(hub, home, token):
    """Of a process that takes the loopback server for the Hub; HF_ENDPOINT counts at import."""
    changed = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home / "hf"), "HF_HUB_OFFLINE": "0", "COLUMNS": "300"}
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    return {**environment, **changed, **({"HF_TOKEN": token} if token else {})}


def _push(hub, home, *arguments, token=WRITE):
    """`har-prune push` in a process of its own."""
    command = [sys.executable, "-m", "har_prune.commands.app", "push", *map(str, arguments)]
    return subprocess.run(
        command, env=_environment(hub, home, token), capture_output=True, text=True, timeout=120, check=False
    )


def _python(hub, home, code, *arguments, token=WRITE):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(
        command, env=_environment(hub, home, token), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_what_is_pushed_is_the_folder_in_one_commit(hub, folder, tmp_path):
    done = _push(hub, tmp_path, folder, "tester/vit-pruned", "--private")
    assert done.returncode == 0, done.stderr
    assert "holds no tokenizer, image processor or feature extractor" in done.stderr
    repo = hub.repos["tester/vit-pruned"]
    assert repo.private
    assert len(repo.commits) == 2, "the initial one and ours"
    pushed = hub.files("tester/vit-pruned")
    local = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert {name: content for name, content in pushed.items() if name != ".gitattributes"} == local
    assert pushed["README.md"] == (folder / "README.md").read_bytes(), "our card, not a generic one"
    assert repo.commits[-1][0] in done.stderr

    again = _push(hub, tmp_path, folder, "tester/vit-pruned")
    assert again.returncode == 0, again.stderr
    assert len(repo.commits) == 2, "nothing changed, nothing committed"
    assert repo.commits[-1][0] in again.stderr

    public = _push(hub, tmp_path, folder, "tester/vit-pruned", "--public")
    assert public.returncode == 2
    assert "exists and is private" in public.stderr
    for output in (done, again, public):
        assert WRITE not in output.stdout + output.stderr


_PULL = """
import json, sys, torch
from huggingface_hub import snapshot_download
from transformers import AutoModelForImageClassification
from har_prune.checkpoints.load import Checkpoint, load_model
repo, first, inputs = sys.argv[1:]
from safetensors.torch import load_file
inputs = load_file(inputs)
by_name = load_model(AutoModelForImageClassification, Checkpoint(repo)).eval()
earlier = load_model(AutoModelForImageClassification, Checkpoint(repo, revision=first)).eval()
folder = snapshot_download(repo)
print(json.dumps({
    "folder": folder, "now": by_name.config.num_hidden_layers, "then": earlier.config.num_hidden_layers,
    "logits": by_name(**inputs).logits.tolist(),
}))
"""


def test_a_pulled_snapshot_loads_and_a_revision_is_kept(hub, folder, tmp_path):
    from safetensors.torch import save_file

    model = remove_blocks(vit(), [1])
    assert _push(hub, tmp_path, folder, "tester/vit").returncode == 0
    first = hub.repos["tester/vit"].commits[-1][0]
    other = save_pruned(remove_blocks(vit(), [1, 2]), tmp_path / "other")
    assert _push(hub, tmp_path, other, "tester/vit").returncode == 0
    inputs = example_inputs(model)
    save_file(inputs, tmp_path / "inputs.safetensors")
    found = _python(hub, tmp_path, _PULL, "tester/vit", first, tmp_path / "inputs.safetensors")
    assert (found["now"], found["then"]) == (2, 3)
    pulled = logits_in_fresh_process(
        {"pulled": ("AutoModelForImageClassification", found["folder"], inputs)}, tmp_path
    )
    torch.testing.assert_close(pulled["pulled"], torch.tensor(found["logits"]))


_FROM_HUB = """
import json, sys
from huggingface_hub import ModelCard
from transformers import AutoModelForImageClassification
from har_prune import push_pruned, remove_blocks, save_pruned
from har_prune.checkpoints.load import load_model
model = remove_blocks(load_model(AutoModelForImageClassification, "tester/base"), [1])
folder = save_pruned(model, sys.argv[1])
push_pruned(folder, "pruned-vit")
print(json.dumps({"provenance": model.config.har_prune, "card": ModelCard.load(folder / "README.md").data.to_dict()}))
"""


def test_from_hub_to_hub_parent_and_license_are_carried_over(hub, tmp_path):
    base = save_pruned(vit(), tmp_path / "base", processor=ViTImageProcessor())
    card = (base / "README.md").read_text().replace("library_name:", "license: cc-by-4.0\nlibrary_name:", 1)
    (base / "README.md").write_text(card)
    assert _push(hub, tmp_path, base, "tester/base").returncode == 0
    found = _python(hub, tmp_path, _FROM_HUB, tmp_path / "pruned")
    assert found["provenance"] == {
        "base_model": "tester/base",
        "license": "cc-by-4.0",
        "original_depth": 4,
        "removed_blocks": [1],
    }
    assert (found["card"]["license"], found["card"]["base_model"]) == ("cc-by-4.0", "tester/base")
    assert "tester/pruned-vit" in hub.repos, "a name without an owner is the account's"
    assert "preprocessor_config.json" in hub.files("tester/pruned-vit"), "the original's processor is carried along"


def test_weights_of_an_earlier_push_do_not_stay_behind(hub, tmp_path):
    whole = save_pruned(llama(), tmp_path / "whole")
    parts = save_pruned(llama(), tmp_path / "parts", max_shard_size="20KB")
    assert len(list(parts.glob("model-*.safetensors"))) > 2
    assert _push(hub, tmp_path, whole, "tester/llama").returncode == 0
    assert _push(hub, tmp_path, parts, "tester/llama").returncode == 0
    there = hub.files("tester/llama")
    assert "model.safetensors" not in there, "from_pretrained would load it first"
    assert {name for name in there if "safetensors" in name} == {p.name for p in parts.glob("*safetensors*")}


def test_an_interrupted_push_changes_nothing_and_can_be_repeated(hub, folder, tmp_path, monkeypatch):
    (tmp_path / "impatient").mkdir()  # huggingface_hub waits half a minute between its attempts
    (tmp_path / "impatient" / "sitecustomize.py").write_text("import time\ntime.sleep = lambda seconds: None\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "impatient"), prepend=os.pathsep)
    hub.break_commits = 20
    broken = _push(hub, tmp_path, folder, "tester/vit")
    assert broken.returncode == 2
    assert "nothing was changed; push again" in broken.stderr
    assert "Traceback" not in broken.stderr
    assert list(hub.files("tester/vit")) == [".gitattributes"]
    hub.break_commits = 0
    assert _push(hub, tmp_path, folder, "tester/vit").returncode == 0
    assert "model.safetensors" in hub.files("tester/vit")


@pytest.mark.parametrize(
    ("token", "repo", "message"),
    [
        ("hf_wrongTOKENabcdefgh", "tester/vit", "does not accept the token for tester/vit (401): log in"),
        (None, "tester/vit", "log in with `hf auth login`"),
        (READ, "tester/vit", "may not write to tester/vit (403)"),
        (WRITE, "somebody/vit", "may not write to somebody/vit (403)"),
        (WRITE, "not/a/repo", "'not/a/repo' is no repository id"),
    ],
)
def test_a_refused_push_says_why_and_shows_no_token(hub, folder, tmp_path, token, repo, message):
    done = _push(hub, tmp_path, folder, repo, token=token)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (token and token in done.stdout + done.stderr)
    assert not hub.repos


def test_a_folder_that_does_not_load_is_not_pushed(hub, folder, tmp_path):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    broken = _push(hub, tmp_path, folder, "tester/vit")
    assert broken.returncode == 2
    assert "corrupt or cut off" in broken.stderr
    (folder / "optimizer.pt").write_bytes(b"")
    assert "optimizer.pt: only safetensors are pushed" in _push(hub, tmp_path, folder, "tester/vit").stderr
    assert "no config.json" in _push(hub, tmp_path, tmp_path, "tester/vit").stderr
    assert not hub.repos


def test_what_save_pruned_did_not_write_is_refused_by_name(hub, tmp_path):
    folder = save_pruned(remove_blocks(har_transformer(), [2]), tmp_path / "own")
    foreign = ["id_rsa", "token.txt", "notes.docx", "sub/.env", ".netrc", "tools.py", "other.safetensors"]
    for name in foreign:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")
    (tmp_path / "secret.json").write_text("{}")
    (folder / "vocab.json").symlink_to(tmp_path / "secret.json")
    (folder / "linked").symlink_to(tmp_path)
    done = _push(hub, tmp_path, folder, "tester/own")
    assert done.returncode == 2, done.stderr
    for name in (*foreign, "vocab.json (a link)", "linked (a link)"):
        assert name in done.stderr
    assert "Move it out of the folder" in done.stderr
    assert not hub.requests, "refused before anybody was asked"
    for name in (*foreign, "vocab.json", "linked"):
        (folder / name).unlink()
    (folder / "sub").rmdir()
    assert _push(hub, tmp_path, folder, "tester/own").returncode == 0, "the advice works"


def test_code_that_an_auto_map_reaches_belongs_to_the_folder(tmp_path):
    folder = save_pruned(har_transformer(), tmp_path / "own", processor=HarFeatureExtractor(num_channels=6))
    configuration = folder / "configuration_har_transformer.py"
    configuration.write_text("from .sizes import SIZE  # noqa\n" + configuration.read_text())
    (folder / "sizes.py").write_text("from .numbers import ONE\nSIZE = ONE\n")
    (folder / "numbers.py").write_text("ONE = 1\n")
    assert {name for name in files_of(folder) if name.endswith(".py")} == {
        "configuration_har_transformer.py", "feature_extraction_har_transformer.py", "modeling_har_transformer.py",
        "sizes.py", "numbers.py",
    }  # fmt: skip
    (folder / "numbers.py").unlink()
    with pytest.raises(CheckpointError, match="imports from beside it what is not there"):
        files_of(folder)


@pytest.mark.parametrize("kind", ["llama", "bert", "vit", "resnet50"])
def test_what_processors_write_belongs_to_the_folder(kind, tmp_path):
    _, model = MAKERS[kind](tmp_path)
    assert set(files_of(model)) > {"config.json", "model.safetensors"}
    (model / "\x1b[31m\n").touch()
    with pytest.raises(CheckpointError, match=r"holds  \[31m : only what save_pruned writes"):
        files_of(model)


_MISSING = """
import json, sys
from transformers import AutoModel
from har_prune.errors import CheckpointError
from har_prune.checkpoints.load import Checkpoint, load_model
messages = []
for checkpoint in (
    Checkpoint("tester/nothing"), Checkpoint("tester/bin"), Checkpoint("tester/bin", revision="v9"),
    Checkpoint("tester/index"),
):
    try:
        load_model(AutoModel, checkpoint)
    except CheckpointError as error:
        messages.append(str(error))
print(json.dumps(messages))
"""


def test_a_missing_repository_and_a_pickle_are_named(hub, folder, tmp_path):
    from hub_server import Repo

    hub.repos["tester/bin"] = Repo(private=False)
    hub.commit("tester/bin", {"config.json": (folder / "config.json").read_bytes(), "pytorch_model.bin": b"pickle"})
    hub.repos["tester/index"] = Repo(private=False)
    index = json.dumps({"metadata": {}, "weight_map": {"x": "../shard.bin"}}).encode()
    hub.commit("tester/index", {
        "config.json": (folder / "config.json").read_bytes(), "model.safetensors.index.json": index,
        "shard.bin": b"pickle",
    })  # fmt: skip
    missing, pickled, revision, foreign = _python(hub, tmp_path, _MISSING)
    assert "checkpoint tester/nothing cannot be loaded" in missing
    assert "har_prune reads safetensors only" in pickled
    assert "use_safetensors=False" in pickled
    assert "checkpoint tester/bin@v9 cannot be loaded" in revision
    assert "checkpoint tester/index: model.safetensors.index.json names ../shard.bin" in foreign
    assert not any("discussions" in path or "convert" in path for _, path in hub.requests), "nobody asked to convert"


_RUN = """
import sys
sys.argv = ["run.py", *sys.argv[1:]]
from har_prune.commands.app import main
main(["run", *sys.argv[1:]])
"""


def test_a_recipe_pushes_its_result_and_refuses_before_the_work(hub, root, tmp_path):
    arguments = [
        root / "recipes" / "quickstart.yaml", f"output_dir={tmp_path / 'out'}", "num_threads=1", "train.epochs=0.1",
        "model.config.num_hidden_layers=2", "prune.target.macs_reduction=0.1", "prune.calibration.samples=16",
        "heal=null", "controls=[]", "evaluate.latency=false", "save.push_to_hub=tester/quick", "save.private=true",
    ]  # fmt: skip

    def launch(token):
        command = [sys.executable, "-c", _RUN, *map(str, arguments)]
        return subprocess.run(
            command, env=_environment(hub, tmp_path, token), capture_output=True, text=True, timeout=300, check=False
        )

    refused = launch("hf_wrongTOKENabcdefgh")
    assert refused.returncode == 2
    assert "does not accept the token" in refused.stderr
    assert not (tmp_path / "out").exists(), "nothing was trained for a push that cannot work"
    done = launch(WRITE)
    assert done.returncode == 0, done.stderr
    assert "trajectory.png" in hub.files("tester/quick")
    assert hub.repos["tester/quick"].private
    everything = done.stdout + done.stderr + "".join(
        path.read_text(errors="replace") for path in (tmp_path / "out").rglob("*") if path.is_file()
    )  # fmt: skip
    assert WRITE not in everything
    assert str(tmp_path) not in hub.files("tester/quick")["config.json"].decode()


def test_no_message_shows_a_token():
    error = RuntimeError(f"Authorization: Bearer {WRITE} was sent to a proxy with secret-of-mine")
    message = _explained(error, "tester/vit", "secret-of-mine")
    assert WRITE not in message
    assert "secret-of-mine" not in message
    assert isinstance(HubError(message), OSError)


def test_own_models_push_their_code(hub, tmp_path):
    folder = save_pruned(remove_blocks(har_transformer(), [2]), tmp_path / "own")
    assert _push(hub, tmp_path, folder, "tester/own").returncode == 0
    assert "modeling_har_transformer.py" in hub.files("tester/own")
