"""Models onto the Hugging Face hub: a model folder, a generator's tokenizer and a card, in one commit."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from omnitok.atomic import scratch_folder
from omnitok.errors import CheckpointError, OmnitokError, reading, reason
from omnitok.hub import download
from omnitok.hub.architectures import Config
from omnitok.hub.card import PLACE, card_metadata, generator_card, tokenizer_card, with_metadata
from omnitok.hub.folder import (
    check_sha256,
    check_weights,
    find_tokenizer,
    load_tokenizer,
    read_description,
)
from omnitok.hub.generator_settings import GeneratorSettings
from omnitok.hub.header import CARD_NAME, CONFIG_NAME, PEER, TOKENIZER, WEIGHTS_NAME, read_json, read_shapes
from omnitok.hub.names import (
    RELEASED_FILES,
    TOKENIZER_FOLDER,
    Files,
    find_files,
    library_of,
    pretrained_models,
)
from omnitok.models.tokenizer import OmniTokenizer, Publishable, TokenizerConfig
from omnitok.version import VERSION

Upload = dict[str, Path | bytes]
"""Path in the repository -> a file of this machine, or its content."""


@dataclass(frozen=True)
class Published:
    """A model on the hub.

    Attributes:
        repository: `owner/name`, with `@revision` where it is not the main branch: what `load_tokenizer` and
            `load_generator` take.
        url: of the repository's page.
        commit: that holds the files.
        files: path in the repository -> bytes.
    """

    repository: str
    url: str
    commit: str
    files: Mapping[str, int]


def push_to_hub(
    model: str | os.PathLike[str] | Publishable,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
) -> Published:
    """Upload a model in one commit; `load_tokenizer` or `load_generator` then takes `repo_id`.

    The repository and the branch are made where there are none. What is sent is `plan_upload`'s; other files of the
    repository stay as they are.

    Args:
        model: a tokenizer or generator, a model's folder, or the name of a bundled model.
        repo_id: `owner/name` on the hub.
        private: whether a repository that is made can be read by its owner alone; None is the account's default.
        revision: the branch; None is the main one.
        commit_message: without it, the model's name and omnitok's version.

    Raises:
        CheckpointError: no model folder, or damaged files; nothing is sent.
        OmnitokError: no token, no network, or the hub refuses; one sentence.
    """
    check_repository(repo_id, revision)
    with tempfile.TemporaryDirectory(dir=scratch_folder()) as made:
        if isinstance(model, Publishable):
            model = model.save_pretrained(Path(made) / repo_id.split("/")[1])
        files = plan_upload(model, repo_id)
        name = Path(model).resolve().name
        return _commit(files, repo_id, private, revision, commit_message or f"Upload {name} with omnitok {VERSION}")


def check_repository(repo_id: str, revision: str | None = None) -> None:
    """Raise ValueError for what cannot be the name of a repository or branch."""
    if (match := download.HUB_ID.fullmatch(repo_id)) is None or match[2]:
        raise ValueError(f"repo_id must be owner/name, found {repo_id!r}")
    if revision is not None and not download.HUB_ID.fullmatch(f"{repo_id}@{revision}"):
        raise ValueError(f"revision must be the name of a branch, found {revision!r}")


# --------------------------------------------------------------------------------------------------------------- plan


def plan_upload(model: str | os.PathLike[str], repo_id: str) -> Upload:
    """The files that are sent: config.json, model.safetensors, README.md, and the same of a generator's tokenizer.

    The card is the folder's own, with the metadata that it lacks (but for a licence, which nobody else can say), or a
    new one. A tokenizer goes to `tokenizer/`, but for those of other projects that everybody gets by their name.

    Args:
        model: a folder, or the name of a bundled model.

    Raises:
        CheckpointError: no model folder, damaged or foreign files, or a tokenizer that is not the generator's.
    """
    name = os.fspath(model)
    files = find_files(name, download=name in pretrained_models())
    return _planned(files, name, repo_id)


def _planned(files: Files, name: str, repo_id: str) -> Upload:
    if files.config is None:
        raise CheckpointError(f"{name}: is a released checkpoint; make a folder of it first, by `omnitok convert`")
    fields = read_json(files.config)
    upload: Upload = {CONFIG_NAME: files.config, WEIGHTS_NAME: files.weights}
    written = ""
    if fields.get("architecture") == PEER:
        read_shapes(files.weights)
        check_sha256(files.weights, fields.get("weights_sha256"))
    else:
        description = read_description(files.config)
        check_sha256(files.weights, description.weights_sha256)
        written = _new_card(files, description.config, description.settings, repo_id)
        if description.settings is not None:
            upload |= _tokenizer_of(files.config.parent, description.settings, repo_id)
    card = files.config.parent / CARD_NAME
    with reading(card, CheckpointError, "model card"):
        text = card.read_text(encoding="utf-8") if card.is_file() else written
        text = with_metadata(text, card_metadata(fields))
    return {CARD_NAME: text.replace(PLACE, repo_id).encode(), **upload}


def _new_card(files: Files, config: Config, settings: GeneratorSettings | None, repo_id: str) -> str:
    model, title = check_weights(files.weights, config, read_shapes(files.weights)), repo_id.split("/")[1]
    if isinstance(config, TokenizerConfig):
        return tokenizer_card(model, title)
    assert settings is not None
    return generator_card(model, settings, title)


def _tokenizer_of(folder: Path, settings: GeneratorSettings, repo_id: str) -> Upload:
    name = find_tokenizer(folder, settings.tokenizer)
    if library_of(name) or name in RELEASED_FILES:
        return {}
    try:
        files = find_files(name)
        inside = _planned(files, name, repo_id)
        if read_json(inside[CONFIG_NAME]).get("architecture") == TOKENIZER:  # type: ignore[arg-type]
            _check_tokens(load_tokenizer(name), name, settings)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: its tokenizer cannot go with it: {error}") from error
    return {f"{TOKENIZER_FOLDER}/{file}": content for file, content in inside.items()}


def _check_tokens(tokenizer: OmniTokenizer, name: str, settings: GeneratorSettings) -> None:
    known = (tokenizer.fingerprint, *tokenizer.compatible_tokenizers)
    if settings.tokenizer_sha256 not in ("", *known):
        raise CheckpointError(f"{name} has weights {known[0]}, not the {settings.tokenizer_sha256} of its training")


# ------------------------------------------------------------------------------------------------------------- upload


def _commit(files: Upload, repo_id: str, private: bool | None, revision: str | None, message: str) -> Published:
    from huggingface_hub import CommitOperationAdd, HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError

    if get_token() is None:
        raise OmnitokError(
            f"{repo_id}: pushing needs a token of the Hugging Face hub with the right to write: `hf auth login` keeps "
            "one, or HF_TOKEN gives it"
        )
    api = HfApi(library_name="omnitok", library_version=VERSION)
    added = [CommitOperationAdd(path, content) for path, content in files.items()]
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        done = api.create_commit(repo_id, added, commit_message=message, revision=revision)
    except Exception as error:  # several packages have classes of their own for what the network does
        refusal = next((each for each in download.causes(error) if isinstance(each, HfHubHTTPError)), None)
        if refusal is None:
            why = reason(download.causes(error)[-1])
            raise OmnitokError(f"{repo_id}: the Hugging Face hub cannot be reached ({why})") from error
        said = refusal.server_message or reason(refusal)
        status = refusal.response.status_code
        raise OmnitokError(f"{repo_id}: the Hugging Face hub refuses the upload ({status}: {said})") from error
    finally:
        download.forget()
    sizes = {path: each.upload_info.size for path, each in zip(files, added, strict=True)}
    name = repo_id if revision is None else f"{repo_id}@{revision}"
    return Published(name, f"{api.endpoint}/{repo_id}", done.oid, sizes)
