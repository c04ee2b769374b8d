"""A Hugging Face Hub of one's own on loopback: what a push and a fetch use of its HTTP API."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest


class Hub:
    """Repositories by name, each a list of commits; a commit is its files."""

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}
        self.refs: dict[str, dict[str, str]] = {}
        self.stored: set[str] = {"model.safetensors"}
        """Files that it stores by content, so that it lists their SHA-256."""
        self.served: dict[str, bytes] = {}
        """What it answers in place of a file's content, by the file's name."""
        self.asked: list[str] = []
        """The paths of all requests."""

    def commit(self, repository: str, files: dict[str, bytes]) -> str:
        """Add a commit to main, with these files in place of those of their names."""
        refs, commits = self.refs.setdefault(repository, {}), self.commits[repository]
        held = {**commits.get(refs.get("main", ""), {}), **files}
        names = json.dumps(
            [[name, hashlib.sha256(held[name]).hexdigest()] for name in sorted(held)]
        )
        oid = hashlib.sha1(f"{len(commits)} {names}".encode()).hexdigest()
        commits[oid], refs["main"] = held, oid
        return oid

    def oid(self, repository: str, revision: str) -> str | None:
        if revision in self.commits.get(repository, {}):
            return revision
        return self.refs.get(repository, {}).get(revision)


class _Answers(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(path)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if path == "/api/repos/create":
            given = json.loads(body)
            name = f"{given['organization']}/{given['name']}"
            if name in self.hub.commits:
                return self._json({"url": f"/{name}", "error": "exists"}, 409)
            self.hub.commits[name] = {}
            return self._json({"url": f"/{name}"})
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        repository, _, rest = path.removeprefix("/api/models/").partition("/preupload/")
        if rest:
            files = json.loads(body)["files"]
            how = {"uploadMode": "regular", "shouldIgnore": False}
            return self._json({"files": [{"path": each["path"], **how} for each in files]})
        repository, _, rest = path.removeprefix("/api/models/").partition("/commit/")
        lines = [json.loads(line) for line in body.splitlines()]
        files = {
            each["value"]["path"]: base64.b64decode(each["value"]["content"])
            for each in lines
            if each["key"] == "file"
        }
        oid = self.hub.commit(repository, files)
        return self._json({"commitUrl": f"/{repository}/commit/{oid}", "commitOid": oid})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(path)
        if path.startswith("/api/models/"):
            repository, _, revision = path.removeprefix("/api/models/").partition("/revision/")
            oid = self.hub.oid(repository, revision or "main")
            if repository not in self.hub.commits:
                return self._missing("RepoNotFound")
            if oid is None:
                return self._missing("RevisionNotFound")
            return self._json(self._info(repository, oid))
        repository, _, rest = path.removeprefix("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        oid = self.hub.oid(repository, revision)
        if oid is None or name not in self.hub.commits[repository][oid]:
            return self._missing("EntryNotFound")
        content = self.hub.commits[repository][oid][name]
        digest = hashlib.sha256 if name in self.hub.stored else hashlib.sha1
        etag = digest(content).hexdigest()
        content = self.hub.served.get(name, content)
        return self._send(content, 200, {"ETag": f'"{etag}"', "X-Repo-Commit": oid})

    def _info(self, repository: str, oid: str) -> dict[str, Any]:
        siblings: list[dict[str, Any]] = []
        for name, content in self.hub.commits[repository][oid].items():
            listed: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": "0" * 40}
            if name in self.hub.stored:
                sha256 = hashlib.sha256(content).hexdigest()
                listed["lfs"] = {"size": len(content), "sha256": sha256, "pointerSize": 134}
            siblings.append(listed)
        return {"id": repository, "sha": oid, "siblings": siblings, "tags": []}

    def _missing(self, code: str) -> None:
        self._send(b"{}", 404, {"X-Error-Code": code, "X-Error-Message": "there is none"})

    def _json(self, value: Any, status: int = 200) -> None:
        self._send(json.dumps(value).encode(), status, {"Content-Type": "application/json"})

    def _send(self, content: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def serving(cache: Path) -> Iterator[Hub]:
    """Have huggingface_hub ask a hub of one's own, and keep what it fetches in a folder."""
    from huggingface_hub import constants
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

    hub = Hub()
    answers = type("Answers", (_Answers,), {"hub": hub})
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), answers) as server,
        pytest.MonkeyPatch.context() as patched,
    ):
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        patched.setattr(constants, "ENDPOINT", url)
        patched.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patched.setattr(constants, "HF_HUB_CACHE", str(cache))
        disable_progress_bars()
        try:
            yield hub
        finally:
            enable_progress_bars()
            server.shutdown()
