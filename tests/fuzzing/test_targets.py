"""A little of anything, in every run of the tests; `scripts/fuzz` goes on for longer."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import example, given, settings
from hypothesis import strategies as st

from soundmill.models import audio
from soundmill.models.csm.sentences import split_text
from soundmill.models.errors import InputError
from soundmill.models.ming.normalizer import normalized
from soundmill.models.moss.cleaning import clean
from soundmill.models.words import split_sentences

from .targets import TARGETS, catalog

EXAMPLES = settings(max_examples=40)

FOUND: list[tuple[str, bytes]] = [
    ("text", b"x 1" + 2000 * b"1"),
    ("sound_file", b"RIFF\x24\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00"),  # ends within its format
    (  # 1.4 GHz, of which a second took 5.6 GB
        "sound_file",
        b"RIFFd\x06\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00\x17WAVE\x00\x00\x00\x02\x00\x10\x00data"
        b"\xff\xff\xff\xff\xff\xff\xff\xff",
    ),
]
"""What broke a target once, or kept it busy: the target, and the bytes."""

PIECES = st.sampled_from([
    "1", "1,000.5", "-", "‑", "–", "…", "。", "，", "“", "<b>", "[laugh]", "*", "#", "http://a.b", "a@b.c", "3/4", "2024-01-02",
    "$5", "￥", "①", "十", "ＡＢ", "é", "e\u0301", "ß", "İ", "ﬁ", "\u200d", "\u202e", "\ufeff", "\u2028", "日本", "ко", "مر", "हि", "👍🏽",
    "𝔘", " ", "\n", "\t", "\x1b", "'", "’", '"', "-->", "a" * 300, "# Lyrics\n", "%", "²", "½", "٣", "Ⅻ", "10:30", "+1", "(", "\\",
])  # fmt: skip
TEXTS = st.lists(PIECES | st.text(max_size=8), min_size=1, max_size=30).map("".join)

KEYS = sorted(
    {name for model in catalog() for name in model.arguments.model_fields}
    | {"id", "model", "args", "priority"}
)
VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | TEXTS
    | st.sampled_from(["en", "de", "wav", "tts", "clone", "espeak-ng", "@a", "0" * 64]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*KEYS, "job", "artifact", "x"]), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
ARGUMENTS = st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6)


def written(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


@pytest.mark.parametrize(("target", "data"), FOUND)
def test_what_was_found_stays_mended(target: str, data: bytes) -> None:
    TARGETS[target](data)


def test_a_header_that_claims_gigahertz_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sound"
    path.write_bytes(FOUND[-1][1])
    with pytest.raises(InputError, match="1447122711 Hz"):
        audio.read(path, sample_rate=16_000)


@EXAMPLES
@given(st.sampled_from(sorted(set(TARGETS) - {"romanized", "path", "sound_file"})), st.binary(max_size=300))
def test_bytes_break_nothing(target: str, data: bytes) -> None:
    TARGETS[target](data)


@EXAMPLES
@given(st.lists(ARGUMENTS.map(written) | st.binary(max_size=40), max_size=5))
def test_lines_of_json_are_requests_or_told(lines: list[bytes]) -> None:
    TARGETS["manifest"](b"\n".join(lines))


@EXAMPLES
@given(st.sampled_from([",", "\t", "|", ";"]), st.lists(st.lists(TEXTS, max_size=5), max_size=5))
def test_rows_of_a_table_are_requests_or_told(separator: str, rows: list[list[str]]) -> None:
    TARGETS["manifest"](
        "\n".join([separator.join(["id", "text", "language"]), *map(separator.join, rows)]).encode()
    )
    TARGETS["manifest"]("\n".join(map(separator.join, rows)).encode())


@EXAMPLES
@given(ARGUMENTS.map(written))
def test_arguments_are_taken_or_refused(data: bytes) -> None:
    TARGETS["arguments"](data)


@EXAMPLES
@given(TEXTS)
@example("".join(map(chr, range(32, 3000))))
def test_texts_can_be_made_ready(words: str) -> None:
    TARGETS["text"](words.encode())


@settings(max_examples=12)
@given(TEXTS)
def test_texts_can_be_romanized(words: str) -> None:
    if find_spec("uroman") is None:
        pytest.skip("uroman is not installed")
    TARGETS["romanized"](words.encode())


@EXAMPLES
@given(st.binary(max_size=12), TEXTS)
def test_alignments_can_be_written(times: bytes, words: str) -> None:
    TARGETS["alignment"](times.replace(b"\x00", b"\x01") + b"\x00" + words.encode())


@settings(max_examples=30)
@given(st.binary(min_size=20, max_size=200))
def test_a_path_is_found_or_refused(data: bytes) -> None:
    if find_spec("numba") is None:
        pytest.skip("numba is not installed")
    TARGETS["path"](data)


def _sound(kind: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, 0.1 * np.sin(np.arange(3000) / 9), 16_000, format=kind)
    return buffer.getvalue()


SOUNDS = {kind: _sound(kind) for kind in ("WAV", "FLAC", "OGG", "MP3", "AIFF", "RF64")}


@settings(max_examples=80)
@given(
    st.sampled_from(sorted(SOUNDS)),
    st.lists(st.tuples(st.integers(0, 160), st.integers(0, 255)), max_size=4),
    st.integers(0, 60),
)
def test_headers_of_sound_files_are_read_or_refused(
    kind: str, changes: list[tuple[int, int]], cut: int
) -> None:
    content = bytearray(SOUNDS[kind])
    for place, byte in changes:
        content[place] = byte
    TARGETS["sound_file"](bytes(content[: len(content) - cut]))


REPEATED = ["1", "1,", "1.", "-1", "a-", "a - ", " ", ".", "。", "(", "<", "<a", "[", "* ", "# ", "http://", "a@", "1/", "1:", "$1", "'",
            "е", "一", "十万", "2024年1月", "e\u0301", "A.", "-->", "\n\n", "，，", "1‑", "½"]  # fmt: skip


@pytest.mark.parametrize("piece", REPEATED)
def test_no_text_takes_for_ever(piece: str) -> None:
    """A rule that tries everything at every place takes hours for this, and pytest's limit ends it."""
    TARGETS["text"](("x " + piece * 1500)[:1500].encode())


QUADRATIC = [
    (split_text, "."), (split_text, "。"), (split_sentences, "."), (split_sentences, "。"), (normalized, "1"),
    (normalized, "1,111"), (clean, "1"), (clean, "."), (clean, "["), (clean, "1."), (clean, "1/"), (clean, "_a"),
    (clean, "-"), (clean, "【"), (clean, "a@"), (clean, "x" + 500 * " "),
]  # fmt: skip
"""What once took hours for long texts, each with what it took them for; found by asking for 16,000 of each piece."""


@pytest.mark.parametrize(("ready", "piece"), QUADRATIC)
def test_a_very_long_text_takes_no_longer_than_its_length(ready: Callable[[str], Any], piece: str) -> None:
    ready("x" + (piece * 200_000)[:200_000] + "x")


@pytest.mark.skipif(find_spec("uroman") is None, reason="uroman is not installed")
def test_a_word_without_an_end_is_romanized_piece_by_piece() -> None:
    from soundmill.models.aligner.romanization import romanize

    [pieces] = romanize(["½" * 5000], "eng", spell_numbers=False)
    assert len(pieces) == 10
    assert (pieces[0][0], pieces[-1][1]) == (0, 5000)
