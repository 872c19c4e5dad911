"""Stand-ins for what weights are fetched from: a model hub's HTTP API, and S3's, as far as their clients ask.

The hub follows what huggingface_hub 2.4.0 asks (hf_api.py, file_download.py) and how it reads refusals
(utils/_http.py, hf_raise_for_status); the storage follows S3's ListObjectsV2 and GetObject.
"""

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
BLOCK_BYTES = 2**16
_MODEL = re.compile(r"/api/models/(?P<name>[^/]+/[^/]+)(/revision/(?P<revision>.+?)|/tree/(?P<tree>.+?))?$")
_FILE = re.compile(r"/(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)$")
_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"


@dataclass
class Weights:
    """What a server has, whom it lets in, and what it was asked for."""

    files: Mapping[str, bytes]
    """Of the one model `tiny/model`, at the revisions `main` and `COMMIT`; and below s3://models/tiny."""
    token: str = "token"
    """The hub's; the access key id of the storage."""
    is_gated: bool = False
    cut_after_bytes: int | None = None
    """While it is a number, an answer that is longer ends there, and what was cut is not to be had again."""
    cut: set[str] = field(default_factory=set[str])
    """Paths that were."""
    asked: list[str] = field(default_factory=list[str])
    """Method and path of every request."""
    url: str = ""


@contextmanager
def served(weights: Weights, host: str = "127.0.0.1", port: int = 0) -> Iterator[Weights]:
    """Serves until the end; the `url` is known then."""

    class Handler(_Handler):
        has = weights

    server = ThreadingHTTPServer((host, port), Handler)
    weights.url = f"http://{host}:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield weights
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    has: Weights

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.has.asked.append(f"{self.command} {path}")
        if self.has.cut_after_bytes is not None and path in self.has.cut:
            self._answer(503)
        elif path == "/models" or path.startswith("/models/"):
            self._storage(path.removeprefix("/models").strip("/"))
        elif found := _MODEL.match(path):
            self._model(found["name"], found["revision"] or found["tree"] or "main", is_tree=bool(found["tree"]))
        elif found := _FILE.match(path):
            self._file(found["name"], found["revision"], found["file"])
        else:
            self._answer(404)

    do_HEAD = do_GET  # noqa: N815 - the base class's names

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Nothing: what was asked is kept."""

    def _model(self, name: str, revision: str, *, is_tree: bool) -> None:
        if self._refused(name, revision):
            return
        files = {path: {"size": len(content), **_blob(content)} for path, content in self.has.files.items()}
        if is_tree:
            body: Any = [{"type": "file", "path": path, "oid": each["blobId"], **each} for path, each in files.items()]
        else:
            siblings = [{"rfilename": path, **each} for path, each in files.items()]
            body = {"id": name, "sha": COMMIT, "siblings": siblings, "private": False, "gated": False, "tags": []}
        self._answer(200, json.dumps(body).encode(), {"content-type": "application/json"})

    def _file(self, name: str, revision: str, path: str) -> None:
        if self._refused(name, revision):
            return
        content = self.has.files.get(path)
        if content is None:
            self._answer(404, headers={"x-error-code": "EntryNotFound"})
            return
        headers = {"x-repo-commit": COMMIT, "etag": f'"{_blob(content)["blobId"]}"', "accept-ranges": "bytes"}
        self._content(content, headers)

    def _refused(self, name: str, revision: str) -> bool:
        given = self.headers.get("authorization", "").removeprefix("Bearer ")
        if given != self.has.token:
            self._answer(401, headers={"x-error-message": "Invalid credentials in Authorization header"})
        elif name != "tiny/model":
            self._answer(404, headers={"x-error-code": "RepoNotFound"})
        elif self.has.is_gated:
            self._answer(403, headers={"x-error-code": "GatedRepo"})
        elif revision not in ("main", COMMIT):
            self._answer(404, headers={"x-error-code": "RevisionNotFound"})
        else:
            return False
        return True

    def _storage(self, key: str) -> None:
        if f"Credential={self.has.token}/" not in self.headers.get("authorization", ""):
            self._answer(403, b"<Error><Code>AccessDenied</Code></Error>")
            return
        objects = {f"tiny/{path}": content for path, content in self.has.files.items()}
        if key in objects:
            stamp = {"etag": _etag(objects[key]), "last-modified": "Thu, 26 Nov 2026 00:00:00 GMT"}
            self._content(objects[key], stamp)
        elif key:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        else:
            self._listing(objects)

    def _listing(self, objects: Mapping[str, bytes]) -> None:
        prefix = parse_qs(urlsplit(self.path).query).get("prefix", [""])[0]
        rows = "".join(
            f"<Contents><Key>{path}</Key><Size>{len(content)}</Size><ETag>{_etag(content)}</ETag>"
            "<LastModified>2026-11-26T00:00:00.000Z</LastModified></Contents>"
            for path, content in {"tiny/": b"", **objects}.items()
            if path.startswith(prefix)
        )
        body = f'<ListBucketResult xmlns="{_NAMESPACE}"><IsTruncated>false</IsTruncated>{rows}</ListBucketResult>'
        self._answer(200, body.encode(), {"content-type": "application/xml"})

    def _content(self, content: bytes, headers: Mapping[str, str]) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range", ""))
        if wanted is None:
            self._answer(200, content, headers)
            return
        first, last = int(wanted[1]), int(wanted[2] or len(content) - 1)
        part = content[first : last + 1]
        spread = {"content-range": f"bytes {first}-{first + len(part) - 1}/{len(content)}"}
        self._answer(206, part, {**headers, **spread})

    def _answer(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = self.has.cut_after_bytes
        is_cut = cut is not None and len(body) > cut
        for begin in range(0, cut if cut is not None and is_cut else len(body), BLOCK_BYTES):
            self.wfile.write(body[begin : begin + BLOCK_BYTES])
        if is_cut:
            self.has.cut.add(unquote(urlsplit(self.path).path))
            self.close_connection = True


def _blob(content: bytes) -> dict[str, str]:
    return {"blobId": hashlib.sha1(content, usedforsecurity=False).hexdigest()}


def _etag(content: bytes) -> str:
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'
