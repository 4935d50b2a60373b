"""Both hubs as a small server on loopback, which can be told to fail in the ways that real ones do."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LFS_FROM = 1000
"""Bytes from which a file is listed with its SHA-256; a smaller one lies in git itself."""


@dataclass
class HubServer:
    """What the server has, how it fails, and what it was asked.

    Attributes:
        files: Repository → revision → path → content; every revision is its own commit.
        cuts: By path: after how many bytes the next answers break off.
        lies: By path: what is given in place of what is listed.
        statuses: By path: the status of the next answers.
        statuses_after_cuts: The same, for when the cuts have been made.
        sizes: By path: another size in the listing.
        extra: Entries of the listing that are in no repository.
        ignores_ranges: Whether every answer is the whole file.
        gated: Repositories that nobody may list.
        stalls: By path: after how many bytes nothing more comes, until the server ends.
        redirects: Where the content of files is instead, as hubs keep theirs on other machines.
        requests: Paths of files that were asked for, each with its range.
        tokens: What those who asked for files gave to be let in.
    """

    files: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    cuts: dict[str, list[int]] = field(default_factory=dict)
    lies: dict[str, bytes] = field(default_factory=dict)
    statuses: dict[str, list[int]] = field(default_factory=dict)
    statuses_after_cuts: dict[str, list[int]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    extra: list[str] = field(default_factory=list)
    ignores_ranges: bool = False
    gated: set[str] = field(default_factory=set)
    stalls: dict[str, int] = field(default_factory=dict)
    redirects: str | None = None
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def publish(self, name: str, files: dict[str, bytes], revision: str = "main") -> str:
        """Put files into a repository; return the commit."""
        revisions = self.files.setdefault(name, {})
        revisions[revision] = files
        commit = hashlib.sha1(repr((name, sorted(files.items()))).encode()).hexdigest()
        revisions[commit] = files
        if revision == "main":
            revisions["master"] = files
        return commit

    def commit_of(self, name: str, revision: str) -> str:
        found = self.files[name][revision]
        return next(
            key
            for key, files in self.files[name].items()
            if re.fullmatch("[0-9a-f]{40}", key) and files is found
        )


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        path, query = unquote(address.path), parse_qs(address.query)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path):
            self._list_huggingface(*match.groups())
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._give(*match.groups())
        elif match := re.fullmatch(r"/api/v1/models/([^/]+/[^/]+)/repo/files", path):
            self._list_modelscope(match[1], query["Revision"][0])
        elif match := re.fullmatch(r"/api/v1/models/([^/]+/[^/]+)/repo", path):
            self._give(match[1], query["Revision"][0], query["FilePath"][0])
        else:
            self._json(404, {"error": "no such page"})

    def _list_huggingface(self, name: str, revision: str) -> None:
        if name in self.hub.gated:
            self._json(403, {"error": "gated"}, {"X-Error-Code": "GatedRepo"})
        elif name not in self.hub.files:
            self._json(404, {"error": "none"}, {"X-Error-Code": "RepoNotFound"})
        elif revision not in self.hub.files[name]:
            self._json(404, {"error": "none"}, {"X-Error-Code": "RevisionNotFound"})
        else:
            files = self.hub.files[name][revision]
            siblings: list[dict[str, Any]] = []
            for path, content in files.items():
                size = self.hub.sizes.get(path, len(content))
                git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
                entry: dict[str, Any] = {"rfilename": path, "size": size, "blobId": git}
                if len(content) >= LFS_FROM:
                    digest = hashlib.sha256(content).hexdigest()
                    entry["lfs"] = {"sha256": digest, "size": size, "pointerSize": 130}
                siblings.append(entry)
            siblings += [{"rfilename": path, "size": 1, "blobId": "0" * 40} for path in self.hub.extra]
            commit = self.hub.commit_of(name, revision)
            self._json(200, {"id": name, "modelId": name, "sha": commit, "tags": [], "siblings": siblings})

    def _list_modelscope(self, name: str, revision: str) -> None:
        if revision not in self.hub.files.get(name, {}):
            self._json(404, {"Code": 10010205001, "Message": "not found", "Success": False})
            return
        entries: list[dict[str, Any]] = [{"Path": "assets", "Type": "tree", "Size": 0}]
        for path, content in self.hub.files[name][revision].items():
            entries.append(
                {
                    "Path": path,
                    "Name": path.rpartition("/")[2],
                    "Type": "blob",
                    "Size": self.hub.sizes.get(path, len(content)),
                    "Sha256": hashlib.sha256(content).hexdigest(),
                    "Revision": self.hub.commit_of(name, revision),
                    "CommittedDate": 1,
                }
            )
        entries += [{"Path": path, "Type": "blob", "Size": 1, "Sha256": "0" * 64} for path in self.hub.extra]
        self._json(200, {"Code": 200, "Success": True, "Data": {"Files": entries}})

    def _give(self, name: str, revision: str, path: str) -> None:
        wanted = self.headers.get("Range")
        self.hub.requests.append((path, wanted))
        self.hub.tokens.append(self.headers.get("Authorization"))
        if self.hub.redirects is not None:
            self._json(302, {}, {"Location": f"{self.hub.redirects}{self.path}"})
            return
        if statuses := self.hub.statuses.get(path):
            self._json(statuses.pop(0), {"error": "as told"})
            return
        content = self.hub.files.get(name, {}).get(revision, {}).get(path)
        if content is None:
            self._json(404, {"error": "no such file"})
            return
        content = self.hub.lies.get(path, content)
        begin = 0
        if wanted is not None and not self.hub.ignores_ranges:
            begin = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if begin >= len(content):
                self._json(416, {"error": "nothing there"})
                return
        self._send(content, begin, partial=wanted is not None and not self.hub.ignores_ranges, path=path)

    def _send(self, content: bytes, begin: int, *, partial: bool, path: str) -> None:
        rest = content[begin:]
        self.send_response(206 if partial else 200)
        self.send_header("Content-Length", str(len(rest)))
        if partial:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        cuts = self.hub.cuts.get(path)
        if path in self.hub.stalls:
            self.wfile.write(rest[: self.hub.stalls[path]])
            self.hub.ended.wait()
            self.close_connection = True
        elif cuts:
            self.wfile.write(rest[: cuts.pop(0)])
            if not cuts and path in self.hub.statuses_after_cuts:
                self.hub.statuses[path] = self.hub.statuses_after_cuts.pop(path)
            self.close_connection = True
        else:
            self.wfile.write(rest)

    def _json(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text)


@contextmanager
def serving() -> Iterator[HubServer]:
    """A server with no repositories."""
    hub = HubServer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()
