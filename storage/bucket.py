"""One bucket of an S3 server: the few requests that `s3.py` makes, bounded in time, and their errors as ours.

The client is obstore. Endpoint, region and credentials are those of its own variables (`AWS_ENDPOINT_URL`,
`AWS_REGION`, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, …, or the role of the machine),
so that Soundmill never holds a secret.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import NotFound, SettingsError, StorageError, StorageFull, StorageUnavailable

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

PART_BYTES = 8 * 1024**2  # S3 takes 10,000 parts: files of up to 78 GiB
PARTS_AT_ONCE = 2

# A question ends within the longest silence plus the time in which it is repeated, half a minute. The client
# counts the sending of a body as silence, and some servers are silent while they put parts together: so
# what is written has a minute, enough for `PARTS_AT_ONCE` parts at 2.3 Mbit/s. Each put begins with a question.
CONNECT_S, SILENCE_S, REQUEST_S, REPEAT_S = 5, 12, 60, 15
_CLIENT: ClientConfig = {
    "allow_http": True,  # an endpoint is reached without TLS only where its address begins with http:
    "connect_timeout": timedelta(seconds=CONNECT_S),
    "timeout": timedelta(seconds=REQUEST_S),
}
_ASKING: ClientConfig = {**_CLIENT, "read_timeout": timedelta(seconds=SILENCE_S)}
_RETRY: RetryConfig = {
    "max_retries": 4,
    "retry_timeout": timedelta(seconds=REPEAT_S),
    "backoff": {"max_backoff": timedelta(seconds=3)},
}

PAUSE_S = 0.2

# The processes that used the client. It has threads, which stay behind at a fork: a child that knows of
# another user than itself would wait for them for ever.
_users: set[int] = set()

REMEDY = "storage_url = s3://… needs obstore, which is not installed: pip install 'soundmill[s3]'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """An object of the bucket. `modified` is the server's time in seconds since 1970, often whole ones."""

    key: str
    size: int
    modified: float


class Bucket:
    """The objects under a prefix. Safe between threads, and not to be used on both sides of a fork."""

    def __init__(self, name: str, prefix: str) -> None:
        """Name the bucket; nothing is asked of the server yet.

        Raises:
            SettingsError: obstore is not installed, or one of its variables has a value of no use.
        """
        self._name = name
        try:
            self._client: Any = import_module("obstore")
            stores: Any = import_module("obstore.store")
        except ImportError as error:
            raise SettingsError(REMEDY) from error
        try:
            self._asked, self._written = (
                stores.S3Store(name, prefix=prefix or None, client_options=options, retry_config=_RETRY)
                for options in (_ASKING, _CLIENT)
            )
        except Exception as error:
            reason = str(error).partition("\n")[0]
            raise SettingsError(f"storage_url, or a variable AWS_…, cannot be used: {reason}") from error

    def put(self, key: str, content: bytes) -> None:
        """Write a small object in one request, under a key that nobody has.

        A server that knows conditional requests refuses to overwrite; others do not look.

        Raises:
            StorageUnavailable: Among other reasons, because somebody has the key.
        """
        with self._translated("written"):
            self._put_new(key, content)

    def _put_new(self, key: str, content: bytes) -> None:
        # The client does not repeat a conditional request that got no answer: it could meet itself. Here
        # that is no harm, as the key is the caller's own: refused the second time, it had arrived.
        until = time.monotonic() + _RETRY["retry_timeout"].total_seconds()
        sent = False
        while True:
            try:
                self._client.put(self._written, key, content, use_multipart=False, mode="create")
            except self._client.exceptions.AlreadyExistsError:
                if not sent:
                    raise
            except self._client.exceptions.BaseError as error:
                if time.monotonic() > until or not _is_silence(str(error)):
                    raise
                sent = True
                time.sleep(PAUSE_S)
                continue
            return

    def put_parts(self, key: str, chunks: Iterator[bytes]) -> None:
        """Write a large object in parts, `PARTS_AT_ONCE` of them in memory. If `chunks` raises, nothing is kept."""
        with self._translated("written"):
            self._client.put(
                self._written,
                key,
                chunks,
                use_multipart=True,
                chunk_size=PART_BYTES,
                max_concurrency=PARTS_AT_ONCE,
            )

    def copy(self, source: str, target: str) -> None:
        """Copy an object inside the server.

        Raises:
            NotFound: The source is not there.
        """
        with self._translated("copied"):
            self._client.copy(self._written, source, target)

    def read(self, key: str, start: int, end: int, *, size: int) -> bytes:
        """The bytes from `start` up to `end`, which must not be the same, of an object of `size` bytes.

        Raises:
            NotFound: The object is not there.
        """
        with self._translated("read"):
            if end - start == size:
                # A server may answer a range that is everything as if none had been asked for (RFC 9110,
                # section 14.2), which the client takes for a mistake.
                return bytes(self._client.get(self._asked, key).bytes())
            return bytes(self._client.get_range(self._asked, key, start=start, end=end))

    def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; those that are gone already are no error."""
        with self._translated("deleted"):
            self._client.delete(self._asked, list(keys))

    def objects(self, folder: str | None = None) -> Iterator[Stored]:
        """The objects of a folder, or all of them, in the order of their keys.

        Those written or deleted meanwhile may or may not appear.
        """
        with self._translated("listed"):
            pages = self._client.list(self._asked, folder, chunk_size=1000)
        while page := self._next(pages):
            for found in page:
                modified = found["last_modified"].timestamp()
                yield Stored(key=found["path"], size=found["size"], modified=modified)

    def _next(self, pages: Iterator[Sequence[Any]]) -> Sequence[Any]:
        with self._translated("listed"):
            return next(pages, ())

    @contextlib.contextmanager
    def _translated(self, done: str) -> Iterator[None]:
        _users.add(os.getpid())
        if len(_users) > 1:
            raise StorageUnavailable(
                "s3:// cannot be used in this process, because it was forked from one that had used it: "
                "fork before the first use, or start processes by spawn"
            )
        try:
            yield
        except BaseException as error:
            if not _is_clients(error):
                raise
            text = str(error)
            ours = translation(text, self._name, done)
            # What a server says of a signature that it refuses may quote a session token.
            raise ours from (None if "Signature" in text or "Token" in text else error)


def _is_clients(error: BaseException) -> bool:
    """Whether obstore raised it, rather than the file that is being uploaded, or the user's Ctrl-C."""
    kind = type(error)
    if kind.__name__ == "PanicException" or kind.__module__.startswith("obstore"):
        return True
    # The operating system's own always have a number.
    return isinstance(error, FileNotFoundError) and error.errno is None


def translation(text: str, bucket: str, done: str) -> StorageError:
    """What an error of the client means to us; the text is all that it tells.

    Only the server's code and our own words are repeated: the rest may hold keys and tokens.
    """
    code = _found(r"<Code>(\w+)</Code>", text)
    status = _found(r"status code: (\d{3})", text)
    kind, sentence = _answer(code, status, text)
    says = code or (f"HTTP {status}" if status else "without a reason")
    return kind(sentence.format(bucket=bucket, says=says, done=done))


def _is_silence(text: str) -> bool:
    """Whether no answer came, so that nobody knows whether the request arrived."""
    return _answer("", _found(r"status code: (\d{3})", text), text) is _UNREACHABLE


def _answer(code: str, status: str, text: str) -> Answer:
    if _METADATA in text:
        return _NO_CREDENTIALS
    for mark in (code, status):
        if mark in _ANSWERS:
            return _ANSWERS[mark]
    for words, answer in _SILENT.items():
        if words in text:
            return answer
    return _OTHER if status else _UNREACHABLE


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    return match[1] if match else ""


Answer = tuple[type[StorageError], str]

_NO_BUCKET = (
    StorageUnavailable,
    "the bucket {bucket} is not there ({says}): create it, or correct storage_url or AWS_ENDPOINT_URL",
)
_REFUSED = (
    StorageUnavailable,
    "the S3 server refused us ({says}): set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of somebody who may "
    "list, read, write and delete in the bucket {bucket}",
)
_NO_CREDENTIALS = (
    StorageUnavailable,
    "there are no credentials for the bucket {bucket}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
)
_ELSEWHERE = (StorageUnavailable, "the bucket {bucket} lies in another region: set AWS_REGION to it")
_FULL = (StorageFull, "the bucket {bucket} has no room left ({says}): free some, or raise its quota")
_SKEWED = (StorageUnavailable, "the S3 server refused us because this host's clock is wrong: set the clock")
_BUSY = (StorageUnavailable, "the S3 server has too much to do ({says}); try again later")
_UNUSABLE = (
    StorageUnavailable,
    "the bucket {bucket} cannot be asked: AWS_ENDPOINT_URL, AWS_REGION or another variable AWS_… has a value "
    "of no use; correct it",
)
_UNREACHABLE = (
    StorageUnavailable,
    "the S3 server of the bucket {bucket} does not answer: check AWS_ENDPOINT_URL and the network",
)
_OTHER = (
    StorageUnavailable,
    "a blob could not be {done}: the S3 server of the bucket {bucket} answered {says}; try again later",
)

# By the code of the answer, or else its HTTP status.
_ANSWERS: dict[str, Answer] = {
    "NoSuchKey": (NotFound, "the object is not in the bucket {bucket}"),
    "NoSuchUpload": _OTHER,
    "NoSuchBucket": _NO_BUCKET,
    "InvalidBucketName": _NO_BUCKET,
    "PermanentRedirect": _ELSEWHERE,
    "AuthorizationHeaderMalformed": _ELSEWHERE,
    "IllegalLocationConstraintException": _ELSEWHERE,
    "ExpiredToken": _REFUSED,
    "InvalidToken": _REFUSED,
    "RequestTimeTooSkewed": _SKEWED,
    "QuotaExceeded": _FULL,
    "XMinioStorageFull": _FULL,
    "XMinioAdminBucketQuotaExceeded": _FULL,
    "507": _FULL,
    "401": _REFUSED,
    "403": _REFUSED,
    "404": _NO_BUCKET,  # without a code that we know it is perhaps no S3 server that answers
    "429": _BUSY,
    "503": _BUSY,
}

# It asked the cloud's metadata service for credentials, for want of others, and in vain.
_METADATA = "/latest/api/token"

# Errors in which no server of a bucket had its say, by words of the client's.
_SILENT: dict[str, Answer] = {
    "incorrectly configured region": _ELSEWHERE,
    "InvalidUri": _UNUSABLE,
    "relative URL without a base": _UNUSABLE,
    "builder error": _UNUSABLE,
}
