"""Files of repositories on the Hugging Face hub, through its cache: one request per repository, two per new file."""

import re
import time
from dataclasses import dataclass, replace
from pathlib import Path

from omnitok.errors import CheckpointError, reason

HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(\w[\w./-]*))?")
"""`owner/name`, or `owner/name@revision`: a branch, tag or commit."""

PATIENCE = 5.0  # seconds for the hub to answer
_FRESH = 60.0  # seconds for which an answer, or that there was none, still holds


@dataclass(frozen=True)
class HubRepository:
    """What the hub says of a repository; where it says nothing, what its cache on this machine holds counts.

    Attributes:
        name: `owner/name`.
        revision: branch, tag or commit.
        commit: that the revision is now; None where the hub does not say.
        files: paths in it.
        problem: why the hub does not say: a clause that goes on from the name.
    """

    name: str
    revision: str
    commit: str | None = None
    files: frozenset[str] = frozenset()
    problem: str = ""

    def has(self, file: str) -> bool:
        """Whether there is such a file."""
        return self._cached(file, self.revision) is not None if self.commit is None else file in self.files

    def file(self, file: str) -> Path:
        """The file in the hub's cache on this machine, downloaded where needed.

        Raises:
            CheckpointError: it is not there, or cannot be downloaded; one sentence that begins with the name.
        """
        from huggingface_hub import hf_hub_download

        known = self._cached(file, self.revision)
        if self.commit is None and known is None:
            raise CheckpointError(f"{self.name}: {self.problem.replace('{file}', file)}")
        if known is not None and (self.commit is None or known == self._cached(file, self.commit)):
            return known
        if file not in self.files:
            raise CheckpointError(f"{self.name}: this hub repository holds no {file}")
        try:  # by the branch's name, so that the cache remembers which commit it was
            return Path(hf_hub_download(self.name, file, revision=self.revision, etag_timeout=PATIENCE))
        except Exception as error:  # a rate limit, a full disk, a gate before the repository
            raise CheckpointError(
                f"{self.name}: {file} cannot be downloaded from the Hugging Face hub ({reason(causes(error)[-1])})"
            ) from error

    def _cached(self, file: str, revision: str) -> Path | None:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(self.name, file, revision=revision)
        return Path(found) if isinstance(found, str) else None


_UNREACHABLE = (
    "not a folder here, and the Hugging Face hub cannot be reached for {file}, which its cache does not hold; download "
    "the files elsewhere and give their folder or file"
)

_heard: dict[str, tuple[float, HubRepository]] = {}
"""When the hub said what of a hub id; under "": when it could not be reached."""


def hub_repository(hub_id: str) -> HubRepository:
    """Ask the hub for a repository, in one request of a few seconds at most.

    Args:
        hub_id: as `HUB_ID` says.

    Raises:
        CheckpointError: what cannot be one.
    """
    match = HUB_ID.fullmatch(hub_id)
    if match is None:
        raise CheckpointError(f"{hub_id}: is no id of a hub repository, which is owner/name or owner/name@revision")
    name, revision = match[1], match[2] or "main"
    for key in (hub_id, ""):
        when, heard = _heard.get(key, (-_FRESH, None))
        if heard is not None and time.monotonic() - when < _FRESH:
            return heard if key else replace(heard, name=name, revision=revision)
    found = _ask(name, revision)
    _heard["" if found.problem == _UNREACHABLE else hub_id] = (time.monotonic(), found)
    return found


def forget() -> None:
    """Ask again from now on: a repository has changed, or the network is back."""
    _heard.clear()


def _ask(name: str, revision: str) -> HubRepository:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        info = HfApi().model_info(name, revision=revision, timeout=PATIENCE)
        return HubRepository(name, revision, info.sha, frozenset(each.rfilename for each in info.siblings or ()))
    except RepositoryNotFoundError:
        problem = (
            "neither a folder here nor a repository on the Hugging Face hub that this account may read; `omnitok "
            "models` lists known names, `hf auth login` opens private repositories"
        )
    except RevisionNotFoundError:
        problem = f"this hub repository has no branch, tag or commit {revision}"
    except HFValidationError as error:
        raise CheckpointError(f"{name}: is no name of a hub repository ({reason(error)})") from error
    except HfHubHTTPError as error:
        problem = f"the Hugging Face hub does not give it ({reason(error)})"
    except Exception:  # no network, a proxy, offline mode: each has its own classes in several packages
        problem = _UNREACHABLE
    return HubRepository(name, revision, problem=problem)


def causes(error: BaseException | None) -> list[BaseException]:
    """An error of huggingface_hub, what it was raised from, and so on: the last says what the network did."""
    return [] if error is None else [error, *causes(error.__cause__)]


def from_hub(hub_id: str, file: str) -> Path:
    """One file of a repository.

    Raises:
        CheckpointError: as `hub_repository` and `HubRepository.file`.
    """
    return hub_repository(hub_id).file(file)
