"""A small Hugging Face hub on localhost, for tests: models from a dictionary, by the routes that a download takes."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]


class Hub:
    """Models by name, each with the files of each revision, and what was asked for."""

    def __init__(self, models: dict[str, dict[str, Files]]) -> None:
        self.models = models
        self.requests: list[str] = []
        self.url = ""

    def commit(self, model: str, revision: str) -> str:
        return hashlib.sha1(f"{model}@{revision}".encode()).hexdigest()

    def files(self, model: str, revision: str) -> tuple[str, Files] | None:
        """The commit and the files of a revision, which may be named by its commit."""
        for known, files in self.models.get(model, {}).items():
            if revision in (known, self.commit(model, known)):
                return self.commit(model, known), files
        return None


@contextmanager
def running(hub: Hub) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(f"{self.command} {path}")
            if path.startswith("/api/models/"):
                self._about(path.removeprefix("/api/models/"))
            else:
                model, _, rest = path.strip("/").partition("/resolve/")
                revision, _, file = rest.partition("/")
                self._file(model, revision, file)

        do_HEAD = do_GET

        def _about(self, path: str) -> None:
            tree = "/tree/" in path
            model, _, revision = path.partition("/tree/" if tree else "/revision/")
            found = hub.files(model, revision)
            if found is None:
                reason = "RevisionNotFound" if model in hub.models else "RepoNotFound"
                self._answer(404, b"{}", {"X-Error-Code": reason})
                return
            commit, files = found
            listing = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in files.items()
            ]
            about = {"id": model, "sha": commit, "siblings": [{"rfilename": name} for name in files]}
            answer = json.dumps(listing if tree else about).encode()
            self._answer(200, answer, {"Content-Type": "application/json"})

        def _file(self, model: str, revision: str, file: str) -> None:
            found = hub.files(model, revision)
            if found is None or file not in found[1]:
                self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
                return
            content = found[1][file]
            etag = hashlib.sha1(content).hexdigest()
            self._answer(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": found[0]})

        def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
