"""The parts of a card's process that can be looked at without one; `test_faults.py` watches the whole."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from soundmill.models.errors import ModelUnavailable
from soundmill.models.place import Place
from soundmill.models.station import Station
from soundmill.storage.arguments import Arguments
from soundmill.storage.catalog import Catalog, Model
from soundmill.storage.model_settings import ModelSettings
from soundmill.storage.settings import Settings
from soundmill.worker.card import _ended, card_lock, load_handlers
from soundmill.worker.errors import CardBusy, ChildFailed
from soundmill.worker.pulse import Pulse

HERE = "tests_of_card"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state_dir=tmp_path)


def test_a_card_is_held_by_one_process(settings: Settings) -> None:
    with card_lock(settings, "npu:0", wait_s=0):
        with pytest.raises(
            CardBusy, match="another process of this host holds npu:0; stop it or choose another card"
        ):
            card_lock(settings, "npu:0", wait_s=0.2).__enter__()
        with card_lock(settings, "npu:1", wait_s=0):
            pass
    with card_lock(settings, "npu:0", wait_s=0):
        pass


def test_a_process_that_is_just_leaving_its_card_is_waited_for(settings: Settings) -> None:
    held = card_lock(settings, "cpu:0", wait_s=0)
    held.__enter__()
    threading.Timer(0.5, held.__exit__, (None, None, None)).start()
    with card_lock(settings, "cpu:0", wait_s=20):
        pass


def test_a_killed_process_leaves_its_card(settings: Settings) -> None:
    program = (
        "import sys, time; from pathlib import Path; from soundmill.storage.settings import Settings; "
        "from soundmill.worker.card import card_lock; lock = card_lock(Settings(state_dir=Path(sys.argv[1])), "
        "'cpu:0', wait_s=0); lock.__enter__(); print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(settings.state_dir)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    with pytest.raises(CardBusy):
        card_lock(settings, "cpu:0", wait_s=0).__enter__()
    process.kill()
    process.wait()
    process.stdout.close()
    with card_lock(settings, "cpu:0", wait_s=5):
        pass


class Loads:
    """A handler that loads."""

    place: Place

    def load(self, place: Place) -> None:
        self.place = place


class Misses:
    """A handler that lacks something."""

    def load(self, place: Place) -> None:
        raise ModelUnavailable("its weights are missing; run: soundmill models pull misses")


def catalog(*names: str) -> Catalog:
    return Catalog(
        Model(id=name, kind="tts", title="", arguments=Arguments, handler=f"{HERE}:{name}", licence="-")
        for name in names
    )


@pytest.fixture(autouse=True)
def _handlers_are_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, HERE, sys.modules[__name__])


def load(settings: Settings, *names: str) -> dict[str, Any]:
    return dict(load_handlers(catalog(*names), names, Station("cpu:3"), settings, Pulse(None)))


def test_a_model_that_cannot_be_loaded_is_left_out(settings: Settings) -> None:
    handlers = load(settings, "Misses", "Loads")
    assert handlers.keys() == {"Loads"}
    assert handlers["Loads"].place.card == "cpu:3"


def test_a_model_gets_what_the_operator_chose(tmp_path: Path) -> None:
    chosen = {"Loads": ModelSettings(slots=8, dtype="fp32", checkpoint=tmp_path, extra={"flow_steps": "12"})}
    options = load(Settings(state_dir=tmp_path, model_options=chosen), "Loads")["Loads"].place.options
    assert (options.slots, options.dtype, options.graphs) == (8, "fp32", "auto")
    assert (options.checkpoint, options.extra) == (tmp_path, {"flow_steps": "12"})


def test_a_card_that_can_serve_nothing_says_what_is_missing(settings: Settings) -> None:
    with pytest.raises(
        ChildFailed, match="Misses: its weights are missing; run: soundmill models pull misses"
    ):
        load(settings, "Misses")


def test_the_end_of_the_supervisors_pipe_is_noticed_at_once() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading) as pipe:
        assert not _ended(pipe)
        os.write(writing, b"nothing that matters")
        assert not _ended(pipe)
        os.close(writing)
        begun = time.monotonic()
        assert _ended(pipe)
        assert time.monotonic() - begun < 5


def test_a_process_that_was_started_without_a_pipe_has_no_supervisor() -> None:
    assert _ended(None)
