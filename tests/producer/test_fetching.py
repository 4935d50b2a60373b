"""Audio from a web address: what may be fetched, and all the ways to something else that end before they begin."""

from __future__ import annotations

import datetime as dt
import gzip
import io
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import soundfile
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from soundmill.producer import Producer
from soundmill.producer.addresses import is_public
from soundmill.producer.fetching import Fetcher, read_url
from soundmill.producer.intake import Intake
from soundmill.storage.errors import InputRefused
from soundmill.storage.settings import Settings

from .playing import rows_of

HOST, INSIDE = "audio.example.org", "inside.example.org"
LOOPBACK = "127.0.0.1"


def tone() -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.full(16_000, 0.1), 16_000, format="WAV")
    return buffer.getvalue()


TONE = tone()


@dataclass
class Server:
    """A web server on loopback with a certificate for `HOST`."""

    port: int
    context: ssl.SSLContext
    asked: list[str] = field(default_factory=list)
    resolved: list[str] = field(default_factory=list)

    def url(self, path: str = "/tone.wav", host: str = HOST) -> str:
        return f"https://{host}:{self.port}{path}"

    def fetcher(self, addresses: list[str] | None = None, **settings: Any) -> Fetcher:
        """One that may connect to loopback, and to nothing else that is not public."""
        hosts = [f"{HOST}:{self.port}", f"{INSIDE}:{self.port}"]
        values: dict[str, Any] = {"url_hosts": hosts, "url_timeout_s": 20}

        def resolver(host: str, port: int) -> list[str]:
            self.resolved.append(host)
            return ["10.0.0.7"] if host == INSIDE else addresses or [LOOPBACK]

        return Fetcher(
            Settings(**values | settings),
            resolver=resolver,
            admits=lambda address: address == LOOPBACK or is_public(address),
            context=self.context,
        )

    def get(self, path: str = "/tone.wav", **settings: Any) -> bytes:
        return b"".join(self.fetcher(**settings).fetch(self.url(path)))


def certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A certificate for `HOST` with its key in one file, and a context that believes it and no other."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = folder / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return file, ssl.create_default_context(cadata=made.public_bytes(serialization.Encoding.PEM).decode())


class Pages(BaseHTTPRequestHandler):
    """What the server answers, by path."""

    protocol_version = "HTTP/1.1"
    asked: list[str]

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self.asked.append(f"{self.headers['Host']} {self.path}")
        name, _, rest = self.path[1:].partition("?")[0].partition("/")
        port = cast(HTTPServer, self.server).server_port
        match name:
            case "tone.wav":
                self.answer(TONE, {"Content-Type": "audio/wav"})
            case "page":
                self.answer(b"<html>", {"Content-Type": "text/html"})
            case "bin":
                self.answer(TONE, {})
            case "gone":
                self.answer(b"", {}, 404)
            case "zip":
                self.answer(gzip.compress(TONE), {"Content-Type": "audio/wav", "Content-Encoding": "gzip"})
            case "liar":
                self.answer(TONE, {"Content-Type": "audio/wav"}, length=len(TONE) + 100)
            case "endless":
                self.answer(None, {"Content-Type": "audio/wav", "Transfer-Encoding": "chunked"})
            case "slow":
                self.dribble()
            case "here":
                self.answer(b"", {"Location": f"/{rest}"}, 302)
            case "around":
                self.answer(b"", {"Location": "/around"}, 307)
            case "to":
                self.answer(b"", {"Location": rest.replace("PORT", str(port))}, 302)
            case _:
                self.answer(b"", {}, 500)

    def answer(
        self, body: bytes | None, headers: dict[str, str], status: int = 200, length: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if body is None:
            self.end_headers()
            for _ in range(10_000):
                self.wfile.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
            return
        self.send_header("Content-Length", str(length or len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def dribble(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        for _ in range(200):
            self.wfile.write(b"X: y\r\n")
            self.wfile.flush()
            time.sleep(0.1)

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            self.close_connection = True  # they hang up on what they do not like


@pytest.fixture(scope="module")
def _served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    file, believing = certificate(tmp_path_factory.mktemp("certificate"))
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own.load_cert_chain(file)
    asked: list[str] = []

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Clients may leave."""

    with Quiet((LOOPBACK, 0), type("Pages", (Pages,), {"asked": asked})) as http:
        http.socket = own.wrap_socket(http.socket, server_side=True, do_handshake_on_connect=True)
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield Server(http.server_address[1], believing, asked)
        http.shutdown()
        thread.join()


@pytest.fixture
def server(_served: Server) -> Server:
    _served.asked.clear()
    _served.resolved.clear()
    return _served


def test_a_file_is_fetched_from_a_named_host(server: Server) -> None:
    assert server.get() == TONE
    assert server.asked == [f"{HOST}:{server.port} /tone.wav"]
    assert server.resolved == [HOST], "once, and never again by whoever connects"


def test_what_does_not_say_what_it_is_is_taken_for_what_it_may_be(server: Server) -> None:
    assert server.get("/bin?a=1&b=%20") == TONE


def test_nothing_is_fetched_unless_hosts_are_named(server: Server) -> None:
    with pytest.raises(InputRefused, match="url_hosts"):
        server.get(url_hosts=[])
    assert (server.resolved, server.asked) == ([], [])


@pytest.mark.parametrize(
    ("entry", "host", "named"),
    [
        ("a.example.org", "a.example.org", True),
        ("A.Example.org", "a.example.ORG", True),
        ("a.example.org", "b.a.example.org", False),
        ("a.example.org", "a.example.org.evil.net", False),
        ("*.example.org", "a.example.org", True),
        ("*.example.org", "b.a.example.org", True),
        ("*.example.org", "example.org", False),
        ("*.example.org", "evilexample.org", False),
        ("a.example.org:8443", "a.example.org", False),
        ("*", "a.example.org", False),
    ],
)
def test_a_host_is_allowed_by_its_name(server: Server, entry: str, host: str, named: bool) -> None:
    fetcher = server.fetcher(["10.0.0.1"], url_hosts=[entry])
    words = "not on the public internet" if named else "none of the hosts"
    with pytest.raises(InputRefused, match=words):
        list(fetcher.fetch(f"https://{host}/x.wav"))


@pytest.mark.parametrize(
    "url",
    [
        "http://audio.example.org/x.wav",
        "file:///etc/passwd",
        "ftp://audio.example.org/x",
        "//audio.example.org/x",
        "https:/audio.example.org/x",
        "https://audio.example.org\\@127.0.0.1/x",
        "https://127.0.0.1\\.audio.example.org/x",
        "https://audio.example.org@127.0.0.1/x",
        "https://user:password@audio.example.org/x",
        "https://127.0.0.1/x",
        "https://0x7f000001/x",
        "https://2130706433/x",
        "https://0177.0.0.1/x",
        "https://127.1/x",
        "https://[::1]/x",
        "https://[::ffff:127.0.0.1]/x",
        "https://localhost/x",
        "https://audio.example.org#@127.0.0.1/",
        "https://audio.example.org:0/x",
        "https://audio.example.org:99999/x",
        "https://audio.example.org:443:80/x",
        "https://audio.example.org /x",
        "https://audio.example.org/x y",
        "https://audio.example.org/x\r\nHost: inside",
        "https://audio.example.org/x\x00",
        "https://audio.example.org./x",
        "https://aud%69o.example.org/x",
        "https://ａudio.example.org/x",
        "https://audio。example.org/x",
        "https://audio.example.org/" + "x" * 3000,
        "",
    ],
)
def test_an_address_that_can_be_read_in_two_ways_is_read_in_none(server: Server, url: str) -> None:
    with pytest.raises(InputRefused):
        list(server.fetcher(url_hosts=["audio.example.org", "*.org", "127.0.0.1"]).fetch(url))
    assert (server.resolved, server.asked) == ([], [])


@given(st.text(alphabet="htps:/\\@.aexmpl-org127[]#?%\r\n 0", max_size=60))
def test_what_is_taken_for_the_host_is_all_between_the_slashes(text: str) -> None:
    try:
        place = read_url(f"https://{text}")
    except ValueError:
        return
    authority = text.split("/", maxsplit=1)[0]
    assert authority.lower() in (place.host, f"{place.host}:{authority.rpartition(':')[2]}")
    assert not set(text) & set("\\@[]# \r\n") - set("@"), "an @ may stand in the path only"
    assert "@" not in authority


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0", "10.1.2.3", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.255.255.254", "169.254.169.254",
        "172.16.0.1", "172.31.255.255", "192.0.0.8", "192.0.2.1", "192.168.1.1", "198.18.0.1", "198.51.100.7",
        "203.0.113.9", "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.88.99.1",
        "::", "::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::7f00:1", "64:ff9b::7f00:1", "64:ff9b::8.8.8.8",
        "64:ff9b:1::1", "100::1", "2001::1", "2001:0:4136:e378::1", "2001:db8::1", "2002:7f00:1::", "2002:808:808::1",
        "3fff::1", "5f00::1", "fc00::1", "fd12::1", "fe80::1", "fe80::1%eth0", "2600::1%eth0", "fec0::1", "ff02::1",
        "not an address", "127.1", "",
    ],
)  # fmt: skip
def test_an_address_of_the_inside_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "100.63.255.255", "172.32.0.1", "2606:4700::1111", "2a00:1450::1"]
)
def test_an_address_of_the_internet_is(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("addresses", [["10.0.0.1"], [LOOPBACK, "169.254.169.254"], ["::ffff:127.0.0.1"]])
def test_a_name_that_leads_inside_is_not_followed(server: Server, addresses: list[str]) -> None:
    with pytest.raises(InputRefused, match="not on the public internet"):
        list(server.fetcher(addresses).fetch(server.url()))
    assert server.asked == []


def test_without_the_tests_own_permission_loopback_is_inside(server: Server) -> None:
    settings = Settings(url_hosts=(f"{HOST}:{server.port}",))
    fetcher = Fetcher(settings, resolver=lambda host, port: [LOOPBACK], context=server.context)
    with pytest.raises(InputRefused, match="not on the public internet"):
        list(fetcher.fetch(server.url()))
    assert server.asked == []


def test_a_certificate_of_another_name_is_not_believed(server: Server) -> None:
    other = "other.example.org"
    fetcher = server.fetcher(url_hosts=[f"{other}:{server.port}"])
    with pytest.raises(InputRefused, match="SSLCertVerificationError"):
        list(fetcher.fetch(server.url(host=other)))
    assert server.asked == []


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (f"/to/https://{INSIDE}:PORT/x", "not on the public internet"),
        ("/to/https://elsewhere.example.org/x", "none of the hosts"),
        ("/to/http://audio.example.org/x", "https only"),
        ("/to/https://127.0.0.1:PORT/x", "named host"),
        ("/to/file:///etc/passwd", "https only"),
        ("/to///127.0.0.1/x", "https only"),
        ("/to/https://audio.example.org:PORT@127.0.0.1/x", "named host"),
        ("/around", "redirected more than 3 times"),
        ("/page", "no audio"),
        ("/gone", "status 404"),
        ("/zip", "compressed"),
        ("/liar", "broke off"),
    ],
)
def test_what_does_not_lead_to_a_sound_file_ends(server: Server, path: str, words: str) -> None:
    with pytest.raises(InputRefused, match=words) as refusal:
        server.get(path)
    assert refusal.value.field == "audio"


def test_a_redirect_to_where_one_may_go_is_followed(server: Server) -> None:
    assert server.get("/here/tone.wav") == TONE
    assert server.get(f"/to/https://{HOST}:PORT/tone.wav") == TONE


@pytest.mark.parametrize("path", ["/tone.wav", "/endless"])
def test_a_file_that_is_too_large_ends_early(server: Server, path: str) -> None:
    with pytest.raises(InputRefused, match="max_input_bytes"):
        server.get(path, max_input_bytes=1000)


def test_a_server_that_dribbles_has_no_longer_than_the_whole(server: Server) -> None:
    begun = time.monotonic()
    with pytest.raises(InputRefused, match="took too long"):
        server.get("/slow", url_timeout_s=1)
    assert time.monotonic() - begun < 15, "it would have gone on for 20 s"


def test_no_error_repeats_an_address(server: Server) -> None:
    for path in ("/gone?signature=swordfish", "/page?signature=swordfish", "/liar?signature=swordfish"):
        with pytest.raises(InputRefused) as refusal:
            server.get(path)
        assert "swordfish" not in str(refusal.value)


def test_a_job_gets_what_was_fetched_once_as_bytes_of_its_own(
    server: Server, small_producer: Producer, tmp_path: Path
) -> None:
    producer = small_producer
    intake = Intake(producer.settings, producer.blobs, fetcher=server.fetcher())
    jobs = [
        producer.submit(
            model="acoustic", args={"audio": {"url": server.url("/tone.wav?key=x")}}, intake=intake
        )
        for _ in range(3)
    ]
    rows = rows_of(producer.database)
    assert len(rows) == len(jobs) == 3
    assert {tuple(row.args["audio"]) for row in rows} == {("artifact",)}, "the address is nowhere kept"
    assert len(server.asked) == 1
    with producer.open_artifact(jobs[0].id, "input/audio") as stored:
        assert stored.read() == TONE


def test_a_page_that_says_it_is_audio_is_examined_like_any_file(
    server: Server, small_producer: Producer
) -> None:
    fetcher = server.fetcher(max_input_bytes=10**6)
    fetcher._content = lambda place, answer: iter([b"<html>"])  # type: ignore[method-assign]
    intake = Intake(small_producer.settings, small_producer.blobs, fetcher=fetcher)
    with pytest.raises(InputRefused, match="not audio"):
        small_producer.submit(model="acoustic", args={"audio": {"url": server.url()}}, intake=intake)
    assert rows_of(small_producer.database) == []
