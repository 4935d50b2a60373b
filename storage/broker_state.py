"""How a Redis or Valkey server stands: what it holds, what it would do when full, whether it can be written to."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError
from redis.retry import Retry
from ulid import ULID

from .broker import redis_url
from .errors import StorageUnavailable
from .settings import masked

PROBE_S = 10
"""After so many seconds the server itself removes what a probe left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerState:
    """A server at one moment.

    Attributes:
        version: Of the server, as it calls itself.
        used_bytes: What its data take.
        most_bytes: Where it begins to refuse or to drop; 0: nowhere.
        policy: What it does there, such as `noeviction`.
        append_only: Whether every write is kept in its file.
        append_failed: Whether the last write into that file failed.
        replica: Whether it follows another server and takes no writes.
        clients: How many are connected.
        most_clients: How many may be.
    """

    version: str
    used_bytes: int
    most_bytes: int
    policy: str
    append_only: bool
    append_failed: bool
    replica: bool
    clients: int
    most_clients: int


def broker_state(url: str, *, timeout_s: float = 2.0, probe: bool = False) -> BrokerState:
    """Ask a server how it stands.

    Args:
        url: In kombu's spelling; one that redis-py can reach.
        timeout_s: For each answer.
        probe: Whether to write something that nobody reads, and remove it.

    Raises:
        SettingsError: It can only be reached through kombu.
        StorageUnavailable: It does not answer, refuses the password, or takes no writes.
    """
    client = redis.Redis.from_url(
        redis_url(url),
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
    )
    try:
        with contextlib.closing(client):
            if probe:
                _write(client)
            return _read(client.info())
    except redis.AuthenticationError as error:
        raise StorageUnavailable(
            f"{masked(url)} refuses the password ({error}); put the right one into broker_url"
        ) from error
    except NoPermissionError as error:
        raise StorageUnavailable(
            f"{masked(url)} refuses us ({error}); allow the user what is missing"
        ) from error
    except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
        raise StorageUnavailable(
            f"{masked(url)} does not answer ({error}); start the server, open its port, or set broker_url to another"
        ) from error
    except redis.RedisError as error:
        raise StorageUnavailable(f"{masked(url)} refuses to work ({error}); see the server's log") from error


def _write(client: Any) -> None:
    key = f"soundmill-probe-{ULID()}"
    client.rpush(key, "")
    client.expire(key, PROBE_S)
    client.delete(key)


def _read(info: dict[str, Any]) -> BrokerState:
    name = "valkey" if "valkey_version" in info else "redis"
    return BrokerState(
        version=f"{name} {info.get(f'{name}_version', '-')}",
        used_bytes=int(info.get("used_memory", 0)),
        most_bytes=int(info.get("maxmemory", 0)),
        policy=str(info.get("maxmemory_policy", "noeviction")),
        append_only=bool(info.get("aof_enabled", 0)),
        append_failed=str(info.get("aof_last_write_status", "ok")) != "ok",
        replica=info.get("role") == "slave",
        clients=int(info.get("connected_clients", 0)),
        most_clients=int(info.get("maxclients", 0)),
    )
