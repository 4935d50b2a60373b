from __future__ import annotations

import ctypes
import json
import sys
import time
from collections import Counter
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from soundmill.models.errors import Cancelled, InputError, ModelUnavailable
from soundmill.models.espeak import REMEDY, Espeak, Manner
from soundmill.models.espeak_voices import speaking_voices
from soundmill.models.words import Mark

ENGLISH = Manner(language="en-us")


def say(espeak: Espeak, text: str, manner: Manner = ENGLISH) -> tuple[np.ndarray, list[Mark]]:
    pieces = list(espeak.speak(text, manner, lambda _progress: None))
    return np.concatenate([piece.samples for piece in pieces]), [mark for piece in pieces for mark in piece.marks]


def word_chars(espeak: Espeak, text: str, language: str = "en-us") -> list[int]:
    return [mark.char for mark in say(espeak, text, Manner(language=language))[1] if mark.kind == "word"]


def test_word_marks_count_characters_not_bytes(espeak: Espeak) -> None:
    assert word_chars(espeak, "café naïve end") == [0, 5, 11]
    assert word_chars(espeak, "Привет мир", "ru") == [0, 7]
    assert word_chars(espeak, "hi 😀 there")[-1] == 5


def test_marks_rise_and_lie_within_the_sound(espeak: Espeak) -> None:
    samples, marks = say(espeak, "One, two, and the rest of it.")
    places = [mark.sample for mark in marks]
    assert places == sorted(places)
    assert 0 <= places[0] <= places[-1] <= len(samples)
    assert {mark.kind for mark in marks} == {"word", "sound", "pause"}


@pytest.mark.parametrize("markup", ["<b>loud</b>", "&lt;", "[[h@'l@U]]", '<break time="9s"/>'])
def test_markup_is_read_out_not_obeyed(espeak: Espeak, markup: str) -> None:
    plain = markup.translate(str.maketrans("<>&[]=\"/'@;", " " * 11))
    assert abs(len(word_chars(espeak, markup)) - len(word_chars(espeak, plain))) <= 8
    assert len(say(espeak, markup)[0]) < 8 * 22050


def test_a_command_character_is_not_obeyed(espeak: Espeak) -> None:
    assert np.array_equal(say(espeak, "one \x01450s two")[0], say(espeak, "one  450s two")[0])


@pytest.mark.parametrize("variant", [None, "f3", "whisper", "klatt4"])
def test_the_same_request_gives_the_same_samples_whatever_was_said_before(
    espeak: Espeak, variant: str | None
) -> None:
    manner = Manner(language="en-us", variant=variant)
    first = say(espeak, "Good morning to you all.", manner)[0]
    say(espeak, "Etwas ganz anderes!", Manner(language="de", variant="f2", pitch=80))
    assert np.array_equal(say(espeak, "Good morning to you all.", manner)[0], first)


def test_breathy_voices_do_not_depend_on_the_time_of_day(espeak: Espeak) -> None:
    manner = Manner(language="en-us", variant="whisper")
    first = say(espeak, "Good morning.", manner)[0]
    time.sleep(1.1)
    assert np.array_equal(say(espeak, "Good morning.", manner)[0], first)


def test_speed_and_pitch_and_variant_change_the_speech(espeak: Espeak) -> None:
    text = "The quick brown fox jumps over the lazy dog."
    normal = len(say(espeak, text)[0])
    assert len(say(espeak, text, Manner(language="en-us", speed=2.0))[0]) < 0.7 * normal
    assert len(say(espeak, text, Manner(language="en-us", speed=0.5))[0]) > 1.6 * normal
    assert not np.array_equal(say(espeak, text, Manner(language="en-us", pitch=90))[0], say(espeak, text)[0])


def test_long_texts_are_spoken_in_pieces_with_marks_counted_through(espeak: Espeak) -> None:
    text = "A short sentence. " * 200
    pieces = list(espeak.speak(text, ENGLISH, lambda _progress: None))
    assert len(pieces) > 3
    assert pieces[-1].char_end == len(text)
    chars = [mark.char for piece in pieces for mark in piece.marks if mark.kind == "word"]
    assert len(chars) == 600
    assert all(text[char - 1 : char] in ("", " ") for char in chars)


def test_an_endless_word_is_spoken(espeak: Espeak) -> None:
    assert len(say(espeak, "a" * 5000)[0]) > 22050


def test_progress_rises_and_checkpoints_are_frequent(espeak: Espeak) -> None:
    moments, progress = [time.monotonic()], []

    def checkpoint(share: float | None) -> None:
        moments.append(time.monotonic())
        if share is not None:
            progress.append(share)

    for _ in espeak.speak("A sentence of some words. " * 300, ENGLISH, checkpoint):
        pass
    assert max(np.diff(moments)) < 0.5
    assert progress == sorted(progress)
    assert progress[0] == 0.0
    assert progress[-1] < 1.0


@pytest.mark.parametrize("nth", [1, 2, 5, 9])
def test_what_a_checkpoint_raises_ends_the_speech_at_once(espeak: Espeak, nth: int) -> None:
    calls = Counter[str]()

    def checkpoint(_share: float | None) -> None:
        calls["checkpoint"] += 1
        if calls["checkpoint"] >= nth:
            raise Cancelled

    with pytest.raises(Cancelled):
        list(espeak.speak("A sentence of some words. " * 300, ENGLISH, checkpoint))
    assert calls["checkpoint"] == nth
    assert len(say(espeak, "It still speaks.")[0]) > 0


@pytest.mark.parametrize("language", ["xx", "", "../../etc/passwd", "en-us+f3", "EN-US"])
def test_an_unknown_language_is_refused_by_name(espeak: Espeak, language: str) -> None:
    with pytest.raises(InputError, match="does not speak"):
        say(espeak, "Hello", Manner(language=language))


@pytest.mark.parametrize("variant", ["nobody", "../../en", ""])
def test_an_unknown_variant_is_refused_by_name(espeak: Espeak, variant: str) -> None:
    with pytest.raises(InputError, match="no voice variant"):
        say(espeak, "Hello", Manner(language="en-us", variant=variant))


def test_two_copies_do_not_disturb_each_other(espeak: Espeak) -> None:
    alone = say(espeak, "Hello there. " * 90)[0]
    speech = espeak.speak("Hello there. " * 90, ENGLISH, lambda _progress: None)
    parts = [next(speech).samples]
    other = Espeak()
    say(other, "Guten Tag", Manner(language="de"))
    other.close()
    assert np.array_equal(np.concatenate([*parts, *(piece.samples for piece in speech)]), alone)


def test_a_very_long_path_to_the_data_is_shortened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import espeakng_loader

    deep = tmp_path / ("x" * 100) / ("y" * 100)
    deep.mkdir(parents=True)
    (deep / "espeak-ng-data").symlink_to(espeakng_loader.get_data_path())
    monkeypatch.setattr(espeakng_loader, "get_data_path", lambda: str(deep / "espeak-ng-data"))
    library = Espeak()
    assert len(say(library, "Hello")[0]) > 0
    library.close()


def test_without_the_library_the_error_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)

    def missing(*_arguments: object, **_options: object) -> None:
        raise OSError("no such library")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(ModelUnavailable) as error:
        Espeak()
    assert str(error.value) == REMEDY


@pytest.mark.skipif(sys.platform != "linux", reason="counts the pages of a Linux process")
def test_speaking_many_times_does_not_leak(espeak: Espeak) -> None:
    def resident_kb() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4

    for _ in range(50):
        say(espeak, "Hello")
    before = resident_kb()
    for _ in range(300):
        say(espeak, "Hello")
    assert resident_kb() - before < 600  # the table of voices alone would be 600 kB


def test_the_catalogues_list_is_what_the_library_speaks() -> None:
    kept = json.loads((files("soundmill.storage") / "data" / "espeak_voices.json").read_text("utf-8"))
    found = speaking_voices()
    assert kept == found
    codes = [language["code"] for language in kept["languages"]]
    assert len(codes) == len(set(codes)) > 100
    assert {"en", "en-us", "en-gb", "de", "fr", "zh", "cmn", "yue", "ja", "ar", "hi"} <= set(codes)
