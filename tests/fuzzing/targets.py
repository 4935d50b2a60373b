"""What is fed with anything: each target takes bytes, and raises only where there is something to mend.

`test_targets.py` feeds them a little in every run of the tests, `run.py` (through `scripts/fuzz`) as long as
one likes. An input that was found to break one stands in `FOUND` of the test, with what it broke.
"""

from __future__ import annotations

import base64
import io
import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from soundmill.models import audio
from soundmill.models.alignment_files import as_ctm, as_json, as_labels, as_tsv
from soundmill.models.csm.sentences import most_frames, split_text
from soundmill.models.errors import InputError
from soundmill.models.karaoke import as_ass
from soundmill.models.ming.normalizer import normalized
from soundmill.models.moss import chunking, cleaning, verbalizing
from soundmill.models.subtitles import as_srt, as_vtt
from soundmill.models.words import cut_pieces, speakable, split_sentences, split_words
from soundmill.producer.export.acestep import is_transcript, length_of, read_transcript
from soundmill.producer.export.names import safe_stem
from soundmill.producer.fetching import read_url
from soundmill.producer.manifest import Line, Options, read_manifest
from soundmill.producer.manifests.sniffing import sniff
from soundmill.storage.arguments.aligner import NUMBER_LANGUAGES
from soundmill.storage.catalog import Catalog, load_catalog
from soundmill.storage.errors import SubmitRefused
from soundmill.storage.settings import Settings
from soundmill.storage.sound import UnusableSound, examine
from soundmill.worker.messages import problem_of

from ..models.aligned import aligned

LETTERS = {letter: index + 4 for index, letter in enumerate("abcdefghijklmnopqrstuvwxyz'")} | {"*": 31}
LANGUAGES = ("eng", "deu", "cmn", "jpn", "rus", "ara", "hin")
LONGEST_AUDIO_S = 30.0


@cache
def catalog() -> Catalog:
    return load_catalog()


@cache
def _settings() -> Settings:
    return Settings()


@cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="soundmill-fuzz-"))


def manifest(data: bytes) -> None:
    """A manifest of any of the formats."""
    path = _folder() / "manifest"
    path.write_bytes(data)
    try:
        layout = sniff(path)
        for line in read_manifest(io.BytesIO(data), "b", Options(model="espeak-ng"), layout, catalog()):
            if isinstance(line, Line):
                _submitted(line.request)
            else:
                assert line.number >= 1
                assert line.sentence
    except SubmitRefused as refusal:
        _check_words(refusal)


def _submitted(request: Any) -> None:
    try:
        request.check(_settings())
        catalog().get(request.model, request.kind).parse(request.args)
    except SubmitRefused as refusal:
        _check_words(refusal)


def _check_words(refusal: SubmitRefused) -> None:
    assert str(refusal), "a refusal says what to change"


def arguments(data: bytes) -> None:
    """Arguments in JSON, for all models."""
    try:
        given = json.loads(data)
    except (ValueError, RecursionError):
        return
    if not isinstance(given, dict):
        return
    for model in catalog():
        try:
            parsed = model.parse(given)
        except SubmitRefused as refusal:
            _check_words(refusal)
            continue
        row = json.loads(json.dumps(parsed.model_dump(mode="json"), allow_nan=False))
        assert model.parse(row) == parsed, "a row is read back as it was accepted"
        model.restore(row, model.arguments.version)


def sound_file(data: bytes) -> None:
    """A sound file, for those who examine it and for those who read it."""
    path = _folder() / "sound"
    path.write_bytes(data)
    try:
        sound = examine(path, LONGEST_AUDIO_S)
    except UnusableSound:
        sound = None
    try:
        samples = audio.read(path, sample_rate=16_000, max_s=LONGEST_AUDIO_S)
    except InputError:
        return
    assert np.isfinite(samples).all()
    if sound is not None:
        assert len(samples) <= 16_000 * LONGEST_AUDIO_S + 1


def text(data: bytes) -> None:
    """A text that a submit accepts, through what every family does to it before it speaks or looks for it."""
    words = _text_of(data)
    if words is None:
        return
    assert "".join("".join(split_text(words)).split()) == "".join(words.split()), "every letter is spoken"
    assert most_frames(words) > 0
    chunking.chunks_of(chunking.prepared(cleaning.clean(words)), 20, len)
    verbalizing.spoken_language(words, None)
    verbalizing.language_of(verbalizing.guard_hyphens(words))
    if verbalizing.installed():
        for language in ("zh", "en"):
            verbalizing.verbalize(words, language)
    normalized(words)
    assert "".join(word.text for word in split_words(words)) == "".join(words.split())
    split_sentences(words)
    assert all(len(piece.text) <= 200 for piece in cut_pieces(speakable(words), 200))
    is_transcript({}, words)
    read_transcript(words)
    assert length_of(words, {}).tokens >= 0
    assert "/" not in safe_stem(words)


def romanized(data: bytes) -> None:
    """A text on its way to the labels of the aligner."""
    from soundmill.models.aligner.script import Wording, write_script

    words = _text_of(data)
    if words is None:
        return
    language = LANGUAGES[len(words) % len(LANGUAGES)]
    for split in ("word", "sentence", "character"):
        star: Any = ("none", "edges", "units")[len(words) % 3]
        wording = Wording(
            language=language,
            split=split,
            star=star,
            spell_numbers=language in NUMBER_LANGUAGES and len(words) % 2 == 0,
        )
        script = write_script(words, wording, LETTERS)
        assert len(script.labels) == len(script.letters)
        for parts in (script.characters, script.words, script.sentences):
            assert (parts.first <= parts.end).all()
            assert (parts.char_start <= parts.char_end).all()


def alignment(data: bytes) -> None:
    """Words with times, on their way into every format of text."""
    cut = data.find(b"\x00")
    times, words = np.frombuffer(data[: max(cut, 0)], np.uint8), _text_of(data[cut + 1 :])
    if words is None:
        return
    count = len(words.split())
    steps = np.resize(times if len(times) else np.zeros(1, np.uint8), 2 * count).astype(float) / 50
    edges = np.cumsum(steps)
    spans = list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
    made = aligned(words, spans, duration_s=float(edges[-1]) + 0.1)
    for render in (as_ctm, as_tsv, as_labels, as_srt, as_vtt, as_ass):
        assert isinstance(render(made), str)
    json.loads(as_json(made))


def path(data: bytes) -> None:
    """Log-probabilities and labels, on their way through the trellis."""
    from soundmill.models.trellis import best_path

    if len(data) < 3:
        return
    classes, count = 2 + data[0] % 6, data[1] % 12
    labels = 1 + np.frombuffer(data[2 : 2 + count], np.uint8) % classes
    rest = np.frombuffer(data[2 + count :], np.int8)
    frames = len(rest) // classes
    if not frames:
        return
    said = rest[: frames * classes].reshape(frames, classes).astype(np.float32)
    emissions = np.where(said == -128, -np.inf, said / 16 - 8).astype(np.float32)
    try:
        found = best_path(emissions, labels)
    except InputError:
        return
    assert len(found.states) == frames
    assert (np.diff(found.states) >= 0).all()


def message(data: bytes) -> None:
    """A message on a queue, and the body of one."""
    try:
        given = json.loads(data)
    except (ValueError, RecursionError):
        given = None
    sound = {
        "content-type": "application/json", "content-encoding": "utf-8", "headers": {"task": "soundmill.tts"},
        "body": base64.b64encode(data).decode(),
        "properties": {"body_encoding": "base64", "delivery_tag": "t", "delivery_info": {}},
    }  # fmt: skip
    for queue in ("m", "x.celery.pidbox"):
        problem_of(given, queue, {"soundmill.tts"})
        problem_of(sound, queue, {"soundmill.tts"})
        if isinstance(given, dict):
            problem_of(sound | given, queue, {"soundmill.tts"})


def address(data: bytes) -> None:
    """An address of the web."""
    try:
        place = read_url(data.decode("utf-8", "replace"))
    except ValueError:
        return
    assert place.host.isascii()
    assert not set(place.host + place.target) & set(" \r\n\\#")


def _text_of(data: bytes) -> str | None:
    """A text that the arguments of a model take; `None` if they refuse this one."""
    words = data[:4000].decode("utf-8", "ignore")
    return words if words.strip() and "\x00" not in words else None


TARGETS: dict[str, Callable[[bytes], None]] = {
    one.__name__: one
    for one in (manifest, arguments, sound_file, text, romanized, alignment, path, message, address)
}
