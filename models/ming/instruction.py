"""The instruction of a request, as the model was trained to read it: a JSON of Chinese keys."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

BACKGROUND = "BGM"
_BACKGROUND_KEYS = ("Genre", "Mood", "Instrument", "Theme", "ENV", "SNR")
_KEYS = ("序号", "说话人", "方言", "风格", "语速", "基频", "音量", "情感", BACKGROUND, "IP")
_KEYS_OVER_BACKGROUND = ("序号", "说话人", BACKGROUND, "情感", "方言", "风格", "语速", "基频", "音量", "IP")

_PLAIN = {
    "dialect": "方言",
    "style": "风格",
    "speed": "语速",
    "pitch": "基频",
    "volume": "音量",
    "emotion": "情感",
    "voice": "IP",
}

_RATES = {"slow": "慢速", "medium": "中速", "fast": "快速"}
_LEVELS = {"low": "低", "medium": "中", "high": "高"}
_EMOTIONS = {
    "happy": "高兴",
    "angry": "愤怒",
    "sad": "悲伤",
    "fearful": "恐惧",
    "disgusted": "厌恶",
    "surprised": "惊讶",
    "neutral": "中性",
}
_DIALECTS = {"cantonese": "广粤话", "sichuanese": "川渝"}
_WORDS = {"speed": _RATES, "pitch": _LEVELS, "volume": _LEVELS, "emotion": _EMOTIONS, "dialect": _DIALECTS}

EMOTIONS = frozenset({*_EMOTIONS.values(), "生气"})
DIALECTS = frozenset({*_DIALECTS.values(), "粤语"})
VOICES = frozenset({"灵小甄"})
"""Those that a public example names; the model knows some hundred more, of which no list is at hand."""

_KNOWN = {"emotion": EMOTIONS, "dialect": DIALECTS, "voice": VOICES}


def entries_of(instruction: Mapping[str, Any]) -> dict[str, Any]:
    """The model's entries for the fields of a job's instruction.

    Args:
        instruction: `dialect`, `style`, `speed`, `pitch`, `volume`, `emotion`, `voice`, each a text or
            `None`, and `background`, a mapping of `genre`, `mood`, `instrument`, `theme`, `ambience` and
            `snr_db`, or `None`. English names of known values become the model's own.
    """
    entries: dict[str, Any] = {
        key: _WORDS.get(name, {}).get(instruction[name], instruction[name])
        for name, key in _PLAIN.items()
        if instruction.get(name) is not None
    }
    background = instruction.get("background")
    if background is not None:
        entries[BACKGROUND] = _background(background)
    return entries


def _background(background: Mapping[str, Any]) -> dict[str, Any]:
    music = {name.capitalize(): background[name] for name in ("genre", "mood", "instrument", "theme")}
    around, level = {"ENV": background["ambience"]}, {"SNR": background["snr_db"]}
    # The two orders in which the examples write it.
    return around | level | music if around["ENV"] is not None else music | level | around


def instruction_json(entries: Mapping[str, Any]) -> str:
    """The text that stands in the prompt.

    Args:
        entries: The model's keys and their values; others are dropped. A background keeps the order of
            its keys.
    """
    item: dict[str, Any] = dict.fromkeys(_KEYS)
    item |= {"序号": 1, "说话人": "speaker_1", BACKGROUND: dict.fromkeys(_BACKGROUND_KEYS)}
    item |= {key: value for key, value in entries.items() if key in item}
    background = item[BACKGROUND]
    if isinstance(background, Mapping) and background.get("SNR") is not None:
        item = {key: item[key] for key in _KEYS_OVER_BACKGROUND}
    return json.dumps({"audio_sequence": [item]}, ensure_ascii=False)


def doubts(instruction: Mapping[str, Any]) -> list[str]:
    """A sentence for each value that is on no list we know; the model takes free text all the same."""
    entries = entries_of(instruction)
    found = []
    for name, known in _KNOWN.items():
        value = entries.get(_PLAIN[name])
        if value is not None and _stem(name, value) not in known:
            listed = ", ".join(sorted(known))
            found.append(
                f"instruction.{name}: {value!r} is on no list of known values ({listed}); it is taken as it is"
            )
    return found


def _stem(name: str, value: str) -> str:
    """A voice may carry an emotion behind an underscore."""
    stem, mark, emotion = value.rpartition("_")
    return stem if name == "voice" and mark and emotion in EMOTIONS else value
