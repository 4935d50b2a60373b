"""Sound files that do harm where they are decoded: it is done to a process that has nothing to lose."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import soundfile

from soundmill.storage import examiner as module
from soundmill.storage.errors import StorageUnavailable
from soundmill.storage.examiner import Examiner
from soundmill.storage.sound import UnusableSound

HARMFUL = """
import ctypes, os, resource, sys, time
from soundmill.storage import sound, sound_examiner

def harmful(path, max_audio_s):
    what = path.read_text()
    if what == "segfault":
        ctypes.string_at(0)
    if what == "abort":
        os.abort()
    if what == "memory":
        bytearray(2**40)
    if what == "greedy":
        grown = [bytearray(2**24) for _ in range(2**14)]
    if what == "spin":
        resource.setrlimit(resource.RLIMIT_CPU, (1, resource.getrlimit(resource.RLIMIT_CPU)[1]))
        while True:
            pass
    if what == "sleep":
        time.sleep(3600)
    if what == "write":
        open(str(path) + ".out", "wb", buffering=0).write(b"x" * 100_000)
    if what == "kill":
        os.kill(os.getpid(), 9)
    if what == "terminate":
        os.kill(os.getpid(), 15)
    if what == "forge":
        os.write(1, b"[1, 2]\\n"), time.sleep(3600)
    if what == "flood":
        os.write(1, b"x" * 65_536), os.write(1, b"y" * 65_536)
    if what == "secret":
        raise sound.UnusableSound(os.environ.get("A_SECRET", "has no secret"))
    return sound.Sound(frames=5, sample_rate=5, channels=1, media_type="audio/wav")

sound_examiner.examine = harmful
sound_examiner.main()
"""


@pytest.fixture(scope="module")
def examiner() -> Iterator[Examiner]:
    found = Examiner(600)
    yield found
    found.close()


@pytest.fixture
def harmful(monkeypatch: pytest.MonkeyPatch) -> Iterator[Examiner]:
    """An examiner whose decoder does what the file says."""
    monkeypatch.setattr(module, "_COMMAND", (sys.executable, "-P", "-c", HARMFUL))
    monkeypatch.setenv("A_SECRET", "swordfish")
    found = Examiner(600)
    yield found
    found.close()


def file_of(folder: Path, text: str) -> Path:
    path = folder / text
    path.write_text(text)
    return path


def silence(folder: Path, seconds: float, kind: str, *, rate_hz: int = 48_000, channels: int = 1) -> Path:
    """A file that unpacks to many times its size."""
    path = folder / f"silence-{channels}.{kind.lower()}"
    with soundfile.SoundFile(path, "w", rate_hz, channels, format=kind) as file:
        block = np.zeros((rate_hz, channels), np.int16)
        for _ in range(round(seconds)):
            file.write(block)
    return path


def test_a_bomb_that_says_its_length_is_refused_by_its_header(tmp_path: Path) -> None:
    bomb = silence(tmp_path, 600, "FLAC")
    assert bomb.stat().st_size < 100_000, "it unpacks to 115 MB as float32"
    limited = Examiner(60)
    with pytest.raises(UnusableSound, match="longer than 60 s"):
        limited.examine(bomb)
    limited.close()


def test_a_long_quiet_file_is_no_bomb_where_so_much_is_allowed(examiner: Examiner, tmp_path: Path) -> None:
    sound = examiner.examine(silence(tmp_path, 600, "FLAC"))
    assert (sound.duration_s, sound.channels) == (600, 1)


def test_channels_and_rate_together_are_bounded(tmp_path: Path) -> None:
    limited = Examiner(2)
    with pytest.raises(UnusableSound, match="samples in all its channels"):
        limited.examine(silence(tmp_path, 2, "FLAC", rate_hz=96_000, channels=8))
    limited.close()


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("segfault", "crashes the decoder"),
        ("abort", "crashes the decoder"),
        ("memory", "more memory"),
        ("greedy", "more memory"),
        ("spin", "more time or memory"),
        ("forge", "crashes the decoder"),
        ("flood", "more time or memory"),
        ("secret", "has no secret"),
    ],
)
def test_what_a_decoder_does_harms_the_file_only(
    harmful: Examiner, tmp_path: Path, what: str, words: str
) -> None:
    with pytest.raises(UnusableSound, match=words):
        harmful.examine(file_of(tmp_path, what))
    assert harmful.examine(file_of(tmp_path, "good")).frames == 5


def test_what_is_not_the_files_fault_may_be_tried_again(harmful: Examiner, tmp_path: Path) -> None:
    for what in ("kill", "write"):
        with pytest.raises(StorageUnavailable, match="again"):
            harmful.examine(file_of(tmp_path, what))
    assert not (tmp_path / "write.out").stat().st_size, "the process may write no file"
    # Who stops a service tells all its processes; then a file must not be blamed.
    assert harmful.examine(file_of(tmp_path, "terminate")).frames == 5


def test_whoever_waits_can_leave(harmful: Examiner, tmp_path: Path) -> None:
    class Left(Exception):
        pass

    def leave() -> None:
        raise Left

    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with pytest.raises(Left):
        harmful.examine(file_of(tmp_path, "sleep"), leave)
    left = [c for c in psutil.Process().children(recursive=True) if c.pid not in before]
    assert not left, "the process is gone"


def test_a_process_that_was_killed_is_replaced(examiner: Examiner, tmp_path: Path) -> None:
    path = silence(tmp_path, 1, "WAV")
    examiner.examine(path)
    [program] = examiner._idle
    os.kill(program._process.pid, signal.SIGKILL)
    program._process.wait()
    assert examiner.examine(path).frames == 48_000


def test_many_threads_share_a_few_processes(examiner: Examiner, tmp_path: Path) -> None:
    path, found = silence(tmp_path, 1, "FLAC"), []
    threads = [threading.Thread(target=lambda: found.append(examiner.examine(path))) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 12
    assert len(examiner._idle) <= module.MOST


def test_a_fork_asks_processes_of_its_own(examiner: Examiner, tmp_path: Path) -> None:
    path = silence(tmp_path, 1, "WAV")
    examiner.examine(path)
    script = (
        "import os, sys, warnings\n"
        "from pathlib import Path\n"
        "from soundmill.storage.examiner import Examiner\n"
        "one = Examiner(60)\n"
        "path = Path(sys.argv[1])\n"
        "one.examine(path)\n"
        "child = os.fork()\n"
        "frames = one.examine(path).frames\n"
        "if not child: sys.exit(frames != 48000)\n"
        "_, status = os.waitpid(child, 0)\n"
        "sys.exit(status or one.examine(path).frames != 48000)\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script, str(path)], check=True, timeout=60)


def test_nothing_is_left_when_the_asker_is_killed(tmp_path: Path) -> None:
    path = silence(tmp_path, 1, "WAV")
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from soundmill.storage.examiner import Examiner\n"
        "one = Examiner(60)\n"
        "one.examine(Path(sys.argv[1]))\n"
        "print(one._idle[0]._process.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE) as asker:
        assert asker.stdout is not None
        program = int(asker.stdout.readline())
        asker.kill()
    gone_by = time.monotonic() + 30
    while psutil.pid_exists(program) and psutil.Process(program).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < gone_by
        time.sleep(0.05)


def test_no_decoder_is_loaded_where_the_question_is_asked() -> None:
    script = "import sys, soundmill.producer, soundmill.storage.inputs; sys.exit('soundfile' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3", "AIFF"])
def test_headers_with_changed_bytes_are_answered(examiner: Examiner, tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(7)
    buffer = io.BytesIO()
    soundfile.write(buffer, 0.1 * rng.standard_normal(4000), 16_000, format=kind)
    content: Any = np.frombuffer(buffer.getvalue(), np.uint8)
    path = tmp_path / "changed"
    for _ in range(25):
        changed = content.copy()
        places = rng.integers(0, min(len(content), 200), size=3)
        changed[places] = rng.integers(0, 256, size=3)
        path.write_bytes(changed.tobytes())
        try:
            sound = examiner.examine(path)
        except UnusableSound:
            continue
        assert 0 < sound.duration_s <= 600
