"""A stand-in for the Hugging Face hub's HTTP API on this machine: repositories, branches, commits, large files."""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_someone"
"""Who sends it may write to the repositories of `someone`, and read their private ones."""


@dataclass
class Repository:
    private: bool = False
    branches: dict[str, list[str]] = field(default_factory=lambda: {"main": []})  # commits, oldest first
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        line = self.branches[branch]
        whole = (self.commits[line[-1]] if line else {}) | files
        name = hashlib.sha1(f"{branch} {len(line)} {sorted(whole)}".encode()).hexdigest()
        self.commits[name] = whole
        line.append(name)
        return name

    def files(self, branch: str) -> dict[str, bytes]:
        return self.commits[self.branches[branch][-1]]

    def resolve(self, revision: str) -> str | None:
        return (
            self.branches[revision][-1]
            if self.branches.get(revision)
            else revision
            if revision in self.commits
            else None
        )


class StandIn(ThreadingHTTPServer):
    """The server; `requests` are "METHOD /path" in order, `messages` those of commits.

    Attributes:
        refusal: status and text that answer every upload, where they are set.
        broken: status that answers every request for a file, where it is set.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.messages: list[str] = []
        self.refusal: tuple[int, str] | None = None
        self.broken = 0
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def put(self, name: str, files: dict[str, bytes]) -> str:
        """Commit files to the main branch of a repository, which is made where it is not there; the commit."""
        return self.repositories.setdefault(name, Repository()).commit("main", files)

    def add(self, name: str, folder: Path, *files: str) -> str:
        """`put` files of a folder."""
        return self.put(name, {file: (folder / file).read_bytes() for file in files})

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class Answer(BaseHTTPRequestHandler):
    """One request."""

    server: StandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def reply(self, content: Any, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, message: str, code: str = "") -> None:
        self.reply({"error": message}, status, X_Error_Message=message, **({"X_Error_Code": code} if code else {}))

    def handle_request(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/api/agent"):  # what huggingface_hub asks for itself, once a day
            return self.refuse(404, "none")
        self.server.requests.append(f"{self.command} {path}")
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else self._chunks()
        self.is_ours = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        for method, pattern, answer in ROUTES:
            if (match := re.fullmatch(pattern, path)) and self.command in method.split():
                return answer(self, body, *match.groups())
        self.refuse(404, f"no such page: {path}")

    def _chunks(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return b""
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def found(self, name: str) -> Repository | None:
        repository = self.server.repositories.get(name)
        if repository is None or (repository.private and not self.is_ours):
            self.refuse(404 if self.is_ours else 401, "Repository not found", "RepoNotFound")
            return None
        return repository

    def writable(self, name: str) -> Repository | None:
        if not self.is_ours:
            self.refuse(401, "Invalid username or password.")
        elif not name.startswith("someone/"):
            self.refuse(403, "You don't have the rights to create a model under this namespace")
        elif self.server.refusal is not None:
            self.refuse(*self.server.refusal)
        else:
            return self.found(name)
        return None

    # ----------------------------------------------------------------------------------------------------- reading

    def info(self, body: bytes, name: str, revision: str | None) -> None:
        if (repository := self.found(name)) is None:
            return
        commit = repository.resolve(revision or "main")
        if commit is None:
            return self.refuse(404, "Invalid rev id", "RevisionNotFound")
        files = [{"rfilename": file} for file in repository.commits[commit]]
        self.reply({"id": name, "sha": commit, "private": repository.private, "siblings": files, "tags": []})

    def file(self, body: bytes, name: str, revision: str, path: str) -> None:
        if self.server.broken:
            return self.refuse(self.server.broken, "no files today")
        if (repository := self.found(name)) is None:
            return
        commit = repository.resolve(revision)
        if commit is None:
            return self.refuse(404, "Invalid rev id", "RevisionNotFound")
        content = repository.commits[commit].get(path)
        if content is None:
            return self.refuse(404, "Entry not found", "EntryNotFound")
        self.reply(content, X_Repo_Commit=commit, ETag=f'"{hashlib.sha256(content).hexdigest()}"')

    # ----------------------------------------------------------------------------------------------------- writing

    def create(self, body: bytes) -> None:
        wanted = json.loads(body)
        name = f"{wanted['organization']}/{wanted['name']}"
        if not self.is_ours or not name.startswith("someone/") or self.server.refusal:
            self.writable(name)
        elif name in self.server.repositories:
            self.reply({"error": "You already created this model repo", "url": f"{self.server.url}/{name}"}, 409)
        else:
            private = wanted.get("visibility") == "private" or wanted.get("private") is True
            self.server.repositories[name] = Repository(private)
            self.server.repositories[name].commit("main", {".gitattributes": b""})
            self.reply({"url": f"{self.server.url}/{name}", "name": name})

    def branch(self, body: bytes, name: str, branch: str) -> None:
        if (repository := self.writable(name)) is None:
            return
        if branch in repository.branches:
            return self.refuse(409, "Reference already exists")
        repository.branches[branch] = [*repository.branches["main"]]
        self.reply({})

    def validate(self, body: bytes) -> None:
        has_metadata = json.loads(body)["content"].startswith("---\n")
        self.reply({"errors": [], "warnings": [] if has_metadata else [{"message": "empty or missing yaml metadata"}]})

    def preupload(self, body: bytes, name: str, revision: str) -> None:
        if self.writable(name) is not None:
            modes = {True: "lfs", False: "regular"}
            paths = [file["path"] for file in json.loads(body)["files"]]
            rows = [{"path": p, "uploadMode": modes[p.endswith(".safetensors")], "shouldIgnore": False} for p in paths]
            self.reply({"files": rows})

    def batch(self, body: bytes, name: str) -> None:
        if self.writable(name) is not None:
            rows = [
                {**each, "actions": {"upload": {"href": f"{self.server.url}/large/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            self.reply({"transfer": "basic", "objects": rows})

    def upload(self, body: bytes, oid: str) -> None:
        assert hashlib.sha256(body).hexdigest() == oid
        self.server.large[oid] = body
        self.reply({})

    def commit(self, body: bytes, name: str, branch: str) -> None:
        if (repository := self.writable(name)) is None:
            return
        files = {}
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                self.server.messages.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            else:
                files[value["path"]] = self.server.large[value["oid"]]
        commit = repository.commit(branch, files)
        self.reply({"commitUrl": f"{self.server.url}/{name}/commit/{commit}", "commitOid": commit, "success": True})


_NAME = "([^/]+/[^/]+)"
ROUTES: tuple[tuple[str, str, Any], ...] = (
    ("POST", "/api/repos/create", Answer.create),
    ("POST", "/api/validate-yaml", Answer.validate),
    ("POST", f"/api/models/{_NAME}/branch/(.+)", Answer.branch),
    ("POST", f"/api/models/{_NAME}/preupload/(.+)", Answer.preupload),
    ("POST", f"/api/models/{_NAME}/commit/(.+)", Answer.commit),
    ("GET", f"/api/models/{_NAME}(?:/revision/(.+))?", Answer.info),
    ("POST", f"/{_NAME}.git/info/lfs/objects/batch", Answer.batch),
    ("PUT", "/large/([0-9a-f]{64})", Answer.upload),
    ("GET HEAD", f"/{_NAME}/resolve/([^/]+)/(.+)", Answer.file),
)
