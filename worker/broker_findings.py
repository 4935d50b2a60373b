"""What `soundmill doctor` says of Redis: whether it answers, takes writes, and keeps what it took."""

from __future__ import annotations

from collections.abc import Iterator

from soundmill.storage.broker import redis_url, resolve_broker, running_broker_url
from soundmill.storage.broker_place import clear_place, place_of
from soundmill.storage.broker_server import find_server
from soundmill.storage.broker_state import BrokerState, broker_state
from soundmill.storage.catalog import load_catalog
from soundmill.storage.errors import SettingsError, StorageError
from soundmill.storage.queue import RESPONSIVE, Publisher, make_app
from soundmill.storage.settings import Settings, masked

from .finding import Finding

FULL_SHARE = 0.8
CROWDED_SHARE = 0.9


def broker_findings(settings: Settings) -> Iterator[Finding]:
    """Look at the broker that is given, or at the one of this host."""
    try:
        url = running_broker_url(settings)
        if url is None:
            yield from _not_running(settings)
        elif _is_redis(url):
            yield from _look(settings, url)
        else:
            yield Finding(what="broker", verdict="ok", detail=f"{masked(url)}, {_waiting(settings, url)}")
    except (StorageError, OSError) as error:
        yield Finding(what="broker", verdict="broken", detail=str(error))


def _is_redis(url: str) -> bool:
    try:
        redis_url(url)
    except SettingsError:
        return False
    return True


def _not_running(settings: Settings) -> Iterator[Finding]:
    server = find_server()
    yield Finding(what="broker", verdict="ok", detail=f"embedded, not running; would start {server}")
    place = place_of(settings.state_dir / "broker", settings.runtime_dir, None)
    clear_place(place.url)
    if place.url.startswith("redis://"):
        yield Finding(
            what="broker socket",
            verdict="warning",
            detail="no private folder takes a unix socket (a path may have 107 bytes), so the embedded broker "
            "would listen on a loopback port with a password; set runtime_dir to a short path of yours",
        )


def _look(settings: Settings, url: str) -> Iterator[Finding]:
    state = broker_state(url, probe=True)
    where = masked(url) if settings.broker_url is not None else f"embedded, answers at {masked(url)}"
    waiting = _waiting(settings, url)
    yield Finding(what="broker", verdict="ok", detail=f"{where}, {state.version}, {waiting}")
    for detail in _troubles(state):
        yield Finding(what="broker", verdict="warning", detail=detail)


def _waiting(settings: Settings, url: str) -> str:
    """How many messages there are; asks by way of kombu, as the worker does."""
    with resolve_broker(settings.model_copy(update={"broker_url": url})) as broker:
        publisher = Publisher(make_app(broker.url, RESPONSIVE))
        try:
            waiting = sum(publisher.lengths(load_catalog(settings.plugins).ids()).values())
        finally:
            publisher.close()
    return f"{waiting} message(s) wait"


def _troubles(state: BrokerState) -> Iterator[str]:
    if state.replica:
        yield "it is a replica, which takes no writes; name the primary in broker_url"
    if state.policy != "noeviction":
        yield (
            f"maxmemory-policy is {state.policy}: when it is full it drops messages, and their jobs wait until they "
            "are missed; CONFIG SET maxmemory-policy noeviction, and in its configuration"
        )
    if state.most_bytes and state.used_bytes > FULL_SHARE * state.most_bytes:
        yield (
            f"{_mib(state.used_bytes)} of {_mib(state.most_bytes)} MiB are used: full, it takes no messages; raise "
            "maxmemory, or see with redis-cli --bigkeys who else keeps data there"
        )
    if not state.append_only:
        yield (
            "it keeps no append-only file: after a restart all messages are gone until they are missed; "
            "CONFIG SET appendonly yes, and in its configuration"
        )
    elif state.append_failed:
        yield "its last write into the append-only file failed; look at its log and at the disk"
    if state.most_clients and state.clients > CROWDED_SHARE * state.most_clients:
        yield f"{state.clients} of {state.most_clients} connections are taken; raise maxclients"


def _mib(count: int) -> str:
    return f"{count / 2**20:.1f}"
