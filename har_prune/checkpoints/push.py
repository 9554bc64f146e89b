"""Pushing a saved folder to a model hub: verified first, then all of it in one commit."""

import re
import warnings
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
from transformers import AutoConfig

from har_prune.checkpoints.auto_class import auto_class_for
from har_prune.checkpoints.contents import PROCESSOR_FILES, files_of
from har_prune.checkpoints.load import Checkpoint, load_model
from har_prune.errors import CheckpointError, HubError

# What an earlier push may have left in the repository and from_pretrained would still find.
_REPLACED = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", "*.py")
_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN to a token that may write"


@dataclass(frozen=True)
class Pushed:
    """Where a folder was pushed.

    Args:
        repo_id: The repository, "owner/name".
        url: Its address.
        commit: The newest commit; an unchanged folder makes none, and this is the one before.
    """

    repo_id: str
    url: str
    commit: str


def push_pruned(
    directory: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str = "Upload with har_prune",
    token: str | None = None,
    trust_remote_code: bool = False,
) -> Pushed:
    """Uploads a saved folder in one commit, after loading it once.

    What `save_pruned` writes is uploaded, file by file; a folder that holds anything else is refused, so that no
    notes, keys or links go out with a model. The folder's own card is uploaded as it is. Weights and code of an
    earlier push that the folder no longer has are deleted in the same commit, so that nothing else can be loaded. An
    unchanged folder makes no commit. An interrupted push has changed nothing: push again.

    Args:
        directory: A folder `save_pruned` made.
        repo_id: "owner/name", or "name" for the account of the token. Made where it does not exist.
        private: Whether a new repository is private, None = as the account's default; an existing one must agree.
        revision: Branch to commit to, which must exist; None = the default branch.
        commit_message: First line of the commit.
        token: None = the one of `hf auth login` or HF_TOKEN. Never logged, never part of a message.
        trust_remote_code: For loading a folder that carries somebody else's code.

    Returns:
        Where it went.

    Raises:
        CheckpointError: The folder does not load, or holds pickled weights, or files that `save_pruned` did not
            write.
        HubError: The Hub refused, or cannot be reached.
    """
    directory = Path(directory)
    files = _checked(directory, trust_remote_code)
    api = HfApi(token=token)
    try:
        repo = api.create_repo(repo_id, private=private, exist_ok=True)
        if private is not None and api.model_info(repo.repo_id).private != private:
            raise HubError(
                f"repository {repo.repo_id} exists and is {'public' if private else 'private'}: leave private out, "
                "choose another name, or change the repository's visibility first."
            )
        commit = api.upload_folder(
            repo_id=repo.repo_id,
            folder_path=directory,
            commit_message=commit_message,
            revision=revision,
            delete_patterns=_stale(api, repo.repo_id, revision, directory),
            allow_patterns=files,
        )
    except HubError:
        raise
    except Exception as error:
        # Not `from error`: what a client library puts into its exceptions is not ours to show.
        raise HubError(_explained(error, repo_id, token)) from None
    return Pushed(repo.repo_id, str(repo), commit.oid)


def _stale(api: HfApi, repo_id: str, revision: str | None, directory: Path) -> list[str]:
    """Weights and code in the repository's top folder that the new one does not have."""
    there = [name for name in api.list_repo_files(repo_id, revision=revision) if "/" not in name]
    return [name for name in there if any(fnmatch(name, p) for p in _REPLACED) and not (directory / name).exists()]


def check_login(repo_id: str) -> None:
    """Refuses a push that cannot work before the work that comes before it.

    Raises:
        HubError: There is no token, or the Hub does not accept it, or cannot be reached.
    """
    try:
        HfApi().whoami()
    except Exception as error:
        raise HubError(_explained(error, repo_id, None)) from None


def _checked(directory: Path, trust_remote_code: bool) -> list[str]:
    """The files to push; everything the folder promises must load, on this machine, with the Auto class."""
    if not (directory / "config.json").is_file():
        raise CheckpointError(f"{directory} is not a saved model (no config.json): give the folder save_pruned made.")
    pickles = [path.name for path in directory.rglob("*") if path.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl")]
    if pickles:
        raise CheckpointError(f"{directory} holds {', '.join(sorted(pickles)[:3])}: only safetensors are pushed.")
    files = files_of(directory)
    if not set(files) & set(PROCESSOR_FILES):
        warnings.warn(
            f"{directory} holds no tokenizer, image processor or feature extractor, so transformers.pipeline cannot "
            "use the model: give save_pruned(processor=...) one, or call its save_pretrained(folder).",
            stacklevel=3,
        )
    try:
        config = AutoConfig.from_pretrained(directory, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise CheckpointError(f"checkpoint {directory} cannot be loaded: {error}") from error
    load_model(auto_class_for(config), Checkpoint(directory, trust_remote_code=trust_remote_code))
    return files


def _explained(error: Exception, repo_id: str, token: str | None) -> str:
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if isinstance(error, HFValidationError):
        message = f"{repo_id!r} is no repository id: give owner/name ({error})."
    elif isinstance(error, LocalTokenNotFoundError):
        message = f"there is no token to push to {repo_id} with: {_LOG_IN}."
    elif status == 401:
        message = f"the Hub does not accept the token for {repo_id} (401): {_LOG_IN}."
    elif status == 403:
        message = (
            f"the token may not write to {repo_id} (403): use one with write permission for this account or "
            "organisation, or another repository."
        )
    elif status == 404:
        message = f"{repo_id} or the revision does not exist, or the token may not see it (404): check both names."
    elif isinstance(error, HfHubHTTPError):
        message = f"the Hub refused the push to {repo_id} ({status}): {error}. Nothing was changed there."
    else:
        message = (
            f"the Hub at {constants.ENDPOINT} cannot be reached, or the connection broke ({type(error).__name__}: "
            f"{error}). A push is one commit, so nothing was changed; push again."
        )
    return _without_tokens(message, token)


def _without_tokens(message: str, token: str | None) -> str:
    if token:
        message = message.replace(token, "<token>")
    return re.sub(r"hf_[A-Za-z0-9_]{6,}", "<token>", message)
