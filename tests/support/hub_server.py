"""A model hub on loopback that a real huggingface_hub client can talk to; models only, all in memory.

Every file is asked for as "regular": it travels in the commit itself, which works with and without xet.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlparse

WRITE, READ = "hf_writeTOKENabcdefgh", "hf_readTOKENabcdefgh"
OWNER = "tester"


@dataclass
class Repo:
    """Commits of one repository: (sha, {path: content}), oldest first."""

    private: bool
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)


@dataclass
class Hub:
    """What the server holds, and what it has seen."""

    url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    break_commits: int = 0  # how many coming commits break off half-way

    def commit(self, name: str, files: dict[str, bytes]) -> str:
        """Adds a commit with exactly these files."""
        repo = self.repos[name]
        sha = hashlib.sha1(f"{name}{len(repo.commits)}".encode()).hexdigest()
        repo.commits.append((sha, files))
        return sha

    def files(self, name: str) -> dict[str, bytes]:
        """Files of the newest commit."""
        return self.repos[name].commits[-1][1]


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args: Any) -> None:
        """Says nothing."""

    def do_HEAD(self) -> None:
        self._get()

    def do_GET(self) -> None:
        self._get()

    def do_POST(self) -> None:
        path = unquote(urlparse(self.path).path)
        self.hub.requests.append(("POST", path))
        length = int(self.headers.get("Content-Length") or 0)
        if path.endswith("/commit/main") and self.hub.break_commits:
            self.hub.break_commits -= 1
            self.rfile.read(length // 2)
            self.close_connection = True
            self.connection.close()
            return
        body = self.rfile.read(length)
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if (role := self._role()) is None:
            return self._error(401, "Invalid credentials")
        if role != "write":
            return self._error(403, "This token cannot write")
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        name, _, action = path.removeprefix("/api/models/").partition("/preupload/")
        if action:
            return self._preupload(name, json.loads(body))
        name, _, action = path.removeprefix("/api/models/").partition("/commit/")
        return self._commit(name, body) if action else self._error(404, "no such action")

    def _role(self) -> str | None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        return {WRITE: "write", READ: "read"}.get(token)

    def _create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted.get('organization') or OWNER}/{wanted['name']}"
        if not name.startswith(f"{OWNER}/"):
            return self._error(403, "You don't have the rights to create a model under this namespace")
        if name in self.hub.repos:
            return self._error(409, "You already created this model repo", {"url": f"{self.hub.url}/{name}"})
        self.hub.repos[name] = Repo(bool(wanted.get("private") or wanted.get("visibility") == "private"))
        self.hub.commit(name, {".gitattributes": b""})
        return self._json({"url": f"{self.hub.url}/{name}"})

    def _preupload(self, name: str, wanted: dict[str, Any]) -> None:
        there = self.hub.files(name)
        answer = [
            {
                "path": entry["path"],
                "uploadMode": "regular",
                "shouldIgnore": False,
                "oid": _oid(there[entry["path"]]) if entry["path"] in there else None,
            }
            for entry in wanted["files"]
        ]
        self._json({"files": answer})

    def _commit(self, name: str, body: bytes) -> None:
        files = dict(self.hub.files(name))
        for line in body.decode().splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            elif entry["key"] == "deletedFile":
                del files[entry["value"]["path"]]
        sha = self.hub.commit(name, files)
        self._json({"commitOid": sha, "commitUrl": f"{self.hub.url}/{name}/commit/{sha}", "success": True})

    def _get(self) -> None:
        path = unquote(urlparse(self.path).path)
        self.hub.requests.append((self.command, path))
        if path == "/api/whoami-v2":
            if self._role() is None:
                return self._error(401, "Invalid credentials")
            return self._json({"type": "user", "name": OWNER, "auth": {"accessToken": {"role": self._role()}}})
        name, _, rest = path.removeprefix("/api/models/").removeprefix("/").partition("/resolve/")
        if rest:
            return self._file(name, *rest.split("/", 1))
        for action in ("revision", "tree"):
            name, _, rest = path.removeprefix("/api/models/").partition(f"/{action}/")
            if rest:
                return self._describe(name, rest, tree=action == "tree")
        return self._describe(path.removeprefix("/api/models/"), "main", tree=False)

    def _at(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """A commit; answers with the error and returns None where there is none to see."""
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and self._role() is None):
            return self._error(404 if self._role() else 401, "Repository not found", code="RepoNotFound")
        found = [commit for commit in repo.commits if revision in ("main", commit[0])]
        return found[-1] if found else self._error(404, "Invalid rev id", code="RevisionNotFound")

    def _describe(self, name: str, revision: str, *, tree: bool) -> None:
        if (commit := self._at(name, revision.split("/")[0])) is None:
            return
        sha, files = commit
        if tree:
            return self._json(
                [{"type": "file", "path": path, "size": len(c), "oid": _oid(c)} for path, c in files.items()]
            )
        siblings = [{"rfilename": path} for path in files]
        private = self.hub.repos[name].private
        return self._json({"_id": "1", "id": name, "modelId": name, "sha": sha, "private": private, "tags": [],
                           "downloads": 0, "likes": 0, "siblings": siblings})  # fmt: skip

    def _file(self, name: str, revision: str, path: str) -> None:
        if (commit := self._at(name, revision)) is None:
            return
        sha, files = commit
        if path not in files:
            return self._error(404, "Entry not found", code="EntryNotFound", headers={"X-Repo-Commit": sha})
        self._send(200, files[path], {"X-Repo-Commit": sha, "ETag": f'"{_oid(files[path])}"'})

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _error(
        self,
        status: int,
        message: str,
        body: dict[str, Any] | None = None,
        code: str = "",
        headers: dict[str, str] | None = None,
    ) -> None:
        more = {**(headers or {}), "X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
        content = json.dumps({"error": message, **(body or {})}).encode()
        self._send(status, content, {"Content-Type": "application/json", **more})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub on a free port of this machine."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
