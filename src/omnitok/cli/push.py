"""`omnitok push`: a model onto the Hugging Face hub."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from omnitok.cli.failures import UsageError
from omnitok.cli.options import SAID
from omnitok.cli.report import Column, Report

COLUMNS = (Column("MB", lambda row: f"{row['bytes'] / 1e6:.2f}"),)


@dataclass(frozen=True, kw_only=True)
class Push:
    """Upload a model to the Hugging Face hub in one commit; REPO_ID can then be given wherever a model is wanted.

    config.json, model.safetensors and README.md are sent, and those of a generator's tokenizer to tokenizer/. The card
    gets the metadata that it lacks. Everything is checked before anything is sent. `hf auth login` keeps the token that
    this needs, or HF_TOKEN gives it.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A model's folder, the folder of a run, or the name of a bundled model."""
    repo_id: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="REPO_ID")]
    """OWNER/NAME on the hub; it is made where it does not exist."""
    private: bool = False
    """Make a new repository one that only its owner can read."""
    revision: Annotated[str | None, tyro.conf.arg(metavar="BRANCH"), SAID] = None
    """The branch to commit to, made where it does not exist (default: main). REPO_ID@BRANCH loads it."""
    message: Annotated[str | None, tyro.conf.arg(metavar="TEXT"), SAID] = None
    """Of the commit (default: the model's name and omnitok's version)."""
    dry_run: bool = False
    """Check the model and say what would be sent; no network and no token are needed."""
    json: bool = False
    """Print the result as JSON on stdout; progress and messages are on stderr either way."""

    def run(self) -> int:
        """Do all of it; the exit code."""
        from omnitok.hub.publish import check_repository, plan_upload, push_to_hub

        try:
            check_repository(self.repo_id, self.revision)
        except ValueError as error:
            raise UsageError(str(error).replace("repo_id", "REPO_ID").replace("revision", "--revision")) from error
        report = Report(COLUMNS, self.json, name_key="file")
        if self.dry_run:
            for file, content in plan_upload(self.model, self.repo_id).items():
                size = len(content) if isinstance(content, bytes) else content.stat().st_size
                report.add({"file": file, "bytes": size, "repository": self.repo_id})
            return report.finish(f"Nothing was sent to {self.repo_id}")
        done = push_to_hub(
            self.model,
            self.repo_id,
            private=self.private or None,
            revision=self.revision,
            commit_message=self.message,
        )
        for file, size in done.files.items():
            report.add({"file": file, "bytes": size, "repository": done.repository, "commit": done.commit})
        return report.finish(f"The model is at {done.url}; use it with --model {done.repository}")
