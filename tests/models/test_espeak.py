from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from soundmill.models import espeak as espeak_module
from soundmill.models.errors import Cancelled, InputError, ModelError, ModelUnavailable
from soundmill.models.espeak import REMEDY, Espeak, Manner
from soundmill.models.espeak_voices import speaking_voices
from soundmill.models.words import Mark

ENGLISH = Manner(language="en-us")


def say(espeak: Espeak, text: str, manner: Manner = ENGLISH) -> tuple[np.ndarray, list[Mark]]:
    pieces = list(espeak.speak(text, manner, lambda _progress: None))
    return np.concatenate([piece.samples for piece in pieces]), [
        mark for piece in pieces for mark in piece.marks
    ]


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


def test_two_of_them_do_not_disturb_each_other(espeak: Espeak) -> None:
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
    monkeypatch.setattr(espeak_module, "_find", lambda _held: ("libno-such-library.so.1", ""))
    with pytest.raises(ModelUnavailable) as error:
        Espeak()
    assert str(error.value).startswith(REMEDY)


def test_a_damaged_data_folder_makes_the_model_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import espeakng_loader

    monkeypatch.setattr(espeakng_loader, "get_data_path", lambda: str(tmp_path))
    with pytest.raises(ModelUnavailable, match="data folder"):
        Espeak()


def test_a_text_that_breaks_espeak_breaks_nothing_else(espeak: Espeak) -> None:
    # Found by random texts: letters that eSpeak does not know overflow one of its buffers, and it aborts.
    text = (
        "']m!5\u26b9\u200db4\U0001117c\U00022083\U00016e2b\u234b}\u0212\ub93a\u200d\U0001693f\u770a<\U000e0001\u1165"
        "\U0001f175\u047c\U0002bbca\u200d}\u1edd4\u1a47l\u093f\u79900t2\uae5f\U000235eb\U00026f22\u1ea0f\U0002fd5a"
        "\U00010f6ea-2}\u0ad5\u3042"
    )
    with pytest.raises(InputError, match=f"breaks down on the text between characters 0 and {len(text)}"):
        say(espeak, text, Manner(language="si"))
    assert len(say(espeak, "It still speaks.")[0]) > 0


def test_a_process_that_is_killed_is_replaced(espeak: Espeak) -> None:
    speech = espeak.speak("A short sentence. " * 200, ENGLISH, lambda _progress: None)
    next(speech)
    for speaker in espeak._idle:
        os.kill(speaker._process.pid, signal.SIGKILL)
        speaker._process.wait()
    with pytest.raises(ModelError, match="has ended"):
        list(speech)
    assert len(say(espeak, "It still speaks.")[0]) > 0


def test_a_process_that_falls_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Espeak()
    monkeypatch.setattr(espeak_module, "_SILENCE_LIMIT_S", 0.3)
    os.kill(library._idle[0]._process.pid, signal.SIGSTOP)
    with pytest.raises(ModelError, match="says nothing"):
        say(library, "Hello")
    assert len(say(library, "Hello")[0]) > 0
    library.close()


def test_closing_ends_every_process() -> None:
    library = Espeak()
    process = library._idle[0]._process
    library.close()
    assert process.returncode is not None
    with pytest.raises(ModelUnavailable, match="closed"):
        say(library, "Hello")


def test_the_catalogues_list_is_what_the_library_speaks() -> None:
    kept = json.loads((files("soundmill.storage") / "data" / "espeak_voices.json").read_text("utf-8"))
    found = speaking_voices()
    assert kept == found
    codes = [language["code"] for language in kept["languages"]]
    assert len(codes) == len(set(codes)) > 100
    assert {"en", "en-us", "en-gb", "de", "fr", "zh", "cmn", "yue", "ja", "ar", "hi"} <= set(codes)
