"""Input audio from a web address: only from hosts that the operator named, and never from the inside.

A submit fetches it, not a worker: the row then names bytes by their hash like any other, a job does not
depend on a server that answers later, and cards need no way out. What protects the network it runs in:

- Only https, and only hosts in the setting `url_hosts`, which is empty.
- One reading of the address, strict: what it takes for the host is looked up, connected to, and checked in
  the certificate. No user, no backslash, no space, no number in the place of a name.
- The name is resolved once, every address found has to be public (`addresses.py`), and the connection goes
  to one of those. A name that changes its mind afterwards is not asked.
- A redirect is a new address, with all of this again, a few times at most.
- Proxies of the environment are not used: they would resolve the name again.
- Size, time and type are bounded, compressed answers refused; then it is examined like every other input.

Errors never repeat an address beyond its host: signed addresses are passwords.
"""

from __future__ import annotations

import http.client
import io
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from soundmill.storage.errors import InputRefused

from .addresses import is_public

if TYPE_CHECKING:
    from soundmill.storage.settings import Settings

HTTPS_PORT = 443
REDIRECTS = 3
LONGEST_URL = 2048
CHUNK_BYTES = 64 * 1024
CONNECT_S = 10.0

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_UNKNOWN = frozenset(
    {"application/octet-stream", "binary/octet-stream", "application/ogg", "application/x-flac"}
)
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
# RFC 3986, and less of it: a name of two labels or more whose last begins with a letter.
_URL = re.compile(
    rf"https://(?P<host>(?:{_LABEL}\.)+[a-z](?:[a-z0-9-]{{0,61}}[a-z0-9])?)(?::(?P<port>[0-9]{{1,5}}))?"
    r"(?P<target>/[A-Za-z0-9._~!$&'()*+,;=:@/%-]*(?:\?[A-Za-z0-9._~!$&'()*+,;=:@/?%-]*)?)?",
    re.IGNORECASE,
)

Resolve = Callable[[str, int], Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a file lies, as the only reading of its address has it."""

    host: str
    port: int
    target: str

    @property
    def shown(self) -> str:
        """The host, and nothing that may be secret."""
        return f"https://{self.host}" + ("" if self.port == HTTPS_PORT else f":{self.port}")


def read_url(url: str) -> Place:
    """Take an address apart.

    Raises:
        ValueError: It is no https address of a named host; the message says what to change.
    """
    if len(url) > LONGEST_URL:
        raise ValueError(f"the address has more than {LONGEST_URL} characters")
    found = _URL.fullmatch(url)
    if found is None:
        raise ValueError(
            "give an address like https://HOST/PATH: https only, a named host, no user or password, everything "
            "else than plain letters percent-encoded"
        )
    port = int(found["port"] or HTTPS_PORT)
    if not 0 < port < 65_536:
        raise ValueError("the port of the address is none")
    return Place(host=found["host"].lower(), port=port, target=found["target"] or "/")


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host, as the system's resolver has them; `OSError` if there are none."""
    return [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class Fetcher:
    """Fetches files within the limits of the settings. Safe between threads."""

    def __init__(
        self,
        settings: Settings,
        *,
        resolver: Resolve = resolve,
        admits: Callable[[str], bool] = is_public,
        context: ssl.SSLContext | None = None,
    ) -> None:
        """Prepare; nothing is connected.

        Args:
            settings: For the allowed hosts, the largest file and the longest time.
            resolver: Gives the addresses of a host. For tests.
            admits: Tells which of them may be connected to. For tests, whose servers are on loopback.
            context: Which certificates are believed; `None`: those that the system does.
        """
        self._hosts = settings.url_hosts
        self._max_bytes = settings.max_input_bytes
        self._longest_s = settings.url_timeout_s
        self._resolver = resolver
        self._admits = admits
        self._context = context

    def fetch(self, url: str, *, field: str = "audio") -> Iterator[bytes]:
        """The content behind an address, piece by piece.

        Raises:
            InputRefused: It may not be fetched, or could not be; at any piece.
        """
        try:
            yield from self._fetch(url, time.monotonic() + self._longest_s)
        except _RefusedError as error:
            raise InputRefused(f"{field}: {error}", field) from error
        except (OSError, http.client.HTTPException) as error:
            reason = "it took too long" if isinstance(error, TimeoutError) else type(error).__name__
            raise InputRefused(
                f"{field}: the address could not be read ({reason}); try again, or give the file itself",
                field,
            ) from error

    def _fetch(self, url: str, until: float) -> Iterator[bytes]:
        for _ in range(REDIRECTS + 1):
            place = self._allowed(url)
            with self._answer(place, until) as answer:
                if answer.status not in _REDIRECTS:
                    yield from self._content(place, answer)
                    return
                url = _onwards(place, answer.getheader("Location"))
        raise _RefusedError(f"the address was redirected more than {REDIRECTS} times; give the last one")

    def _allowed(self, url: str) -> Place:
        if not self._hosts:
            raise _RefusedError("audio is not fetched from addresses here (url_hosts); give the file itself")
        try:
            place = read_url(url)
        except ValueError as error:
            raise _RefusedError(str(error)) from error
        if not any(_is_named(place, entry) for entry in self._hosts):
            raise _RefusedError(f"{place.shown} is none of the hosts that may be fetched from (url_hosts)")
        return place

    @contextmanager
    def _answer(self, place: Place, until: float) -> Iterator[http.client.HTTPResponse]:
        with closing(self._connected(place, until)) as raw:
            context = self._context or ssl.create_default_context()
            with closing(context.wrap_socket(raw, server_hostname=place.host)) as secured:
                wire = _Wire(secured, until)
                wire.send(_order(place))
                answer = http.client.HTTPResponse(wire, method="GET")  # type: ignore[arg-type]
                with closing(answer):
                    answer.begin()
                    yield answer

    def _connected(self, place: Place, until: float) -> socket.socket:
        """A connection to the host, at an address that was looked at."""
        try:
            addresses = list(dict.fromkeys(self._resolver(place.host, place.port)))
        except (OSError, UnicodeError) as error:
            raise _RefusedError(f"{place.shown} cannot be found") from error
        # All of them: a name that points to the inside as well as to the outside means no good.
        if not addresses or not all(map(self._admits, addresses)):
            raise _RefusedError(f"{place.shown} is not on the public internet")
        problem: OSError | None = None
        for address in addresses:
            left_s = min(CONNECT_S, until - time.monotonic())
            if left_s <= 0:
                break
            try:
                # Of an address and no name: nothing is looked up a second time.
                return socket.create_connection((address, place.port), timeout=left_s)
            except OSError as error:
                problem = error
        raise problem or TimeoutError

    def _content(self, place: Place, answer: http.client.HTTPResponse) -> Iterator[bytes]:
        self._check_answer(place, answer)
        held = 0
        while part := answer.read(CHUNK_BYTES):
            held += len(part)
            if held > self._max_bytes:
                raise _RefusedError(self._too_large(place))
            yield part
        if answer.length:
            raise _RefusedError(f"{place.shown} broke off before the end of the file; try again")

    def _check_answer(self, place: Place, answer: http.client.HTTPResponse) -> None:
        if answer.status != 200:
            raise _RefusedError(f"{place.shown} answered with status {answer.status}")
        if answer.getheader("Content-Encoding", "identity").lower() != "identity":
            raise _RefusedError(f"{place.shown} sends the file compressed, although it was not asked to")
        kind = answer.getheader("Content-Type", "application/octet-stream").split(";")[0].strip().lower()
        if not kind.startswith("audio/") and kind not in _UNKNOWN:
            raise _RefusedError(
                f"{place.shown} says that this is no audio; give the address of the file itself"
            )
        if answer.length is not None and answer.length > self._max_bytes:
            raise _RefusedError(self._too_large(place))

    def _too_large(self, place: Place) -> str:
        return f"the file at {place.shown} has more than {self._max_bytes} bytes (max_input_bytes)"


class _RefusedError(Exception):
    """The message is a sentence for the submitter."""


class _Wire(io.RawIOBase):
    """A secured connection that ends at a moment, however slowly the other side goes on talking."""

    def __init__(self, secured: ssl.SSLSocket, until: float) -> None:
        self._secured = secured
        self._until = until

    def makefile(self, mode: str) -> io.BufferedReader:
        """What `http.client` reads from."""
        del mode
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._limit()
        return self._secured.recv_into(buffer)

    def send(self, data: bytes) -> None:
        self._limit()
        self._secured.sendall(data)

    def _limit(self) -> None:
        left_s = self._until - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._secured.settimeout(left_s)


def _order(place: Place) -> bytes:
    port = "" if place.port == HTTPS_PORT else f":{place.port}"
    return (
        f"GET {place.target} HTTP/1.1\r\nHost: {place.host}{port}\r\nAccept: audio/*, */*;q=0.1\r\n"
        "Accept-Encoding: identity\r\nUser-Agent: soundmill\r\nConnection: close\r\n\r\n"
    ).encode("ascii")


def _onwards(place: Place, location: str | None) -> str:
    """The whole address of a redirect; one on the same host may be given as a path."""
    if location is None:
        raise _RefusedError(f"{place.shown} redirects to nowhere")
    return (
        f"{place.shown}{location}" if location.startswith("/") and not location.startswith("//") else location
    )


def _is_named(place: Place, entry: str) -> bool:
    """Whether an entry of the setting means the host: `NAME`, `*.NAME`, with `:PORT` if it is not 443."""
    name, _, port = entry.lower().partition(":")
    if place.port != (int(port) if port.isdigit() else HTTPS_PORT):
        return False
    return place.host.endswith(name[1:]) if name.startswith("*.") else place.host == name
