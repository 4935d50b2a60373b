"""Subtitles in which each word lights up when it is said: Advanced SubStation Alpha with karaoke tags.

A tag `{\\k50}` lets the text behind it light up for 50 hundredths of a second, counted from where the tag before it
ended, so pauses get tags with no text.
"""

from __future__ import annotations

from collections.abc import Iterator

from .alignment import Alignment
from .subtitles import Cue, cues

_HEAD = """\
[Script Info]
ScriptType: v4.00+
WrapStyle: 2
ScaledBorderAndShadow: yes
PlayResX: 1280
PlayResY: 720

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, \
Underline, StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, \
MarginV, Encoding
Style: Default,Arial,48,&H0000FFFF,&H00FFFFFF,&H00000000,&H80000000,0,0,0,0,100,100,0,0,1,2,1,2,40,40,40,1

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""

# The format has no escapes for these; a reader would take them for tags and line breaks.
_LOOKALIKES = str.maketrans({"{": "｛", "}": "｝", "\\": "＼"})


def as_ass(alignment: Alignment) -> str:
    """The cues of the other subtitles, as karaoke. Braces and backslashes are written wide."""
    return _HEAD + "".join(_event(cue) for cue in cues(alignment))


def _event(cue: Cue) -> str:
    start, end = _hundredths(cue.start_s), _hundredths(cue.end_s)
    return (
        f"Dialogue: 0,{_clock(start)},{_clock(end)},Default,,0,0,0,karaoke,{''.join(_tagged(cue, start))}\n"
    )


def _tagged(cue: Cue, now: int) -> Iterator[str]:
    for number, line in enumerate(cue.parts):
        if number:
            yield r"\N"
        for part in line:
            begin, end = _hundredths(part.start_s), _hundredths(part.end_s)
            if begin > now:
                yield rf"{{\k{begin - now}}}"
                now = begin
            yield rf"{{\k{max(0, end - now)}}}{part.text.translate(_LOOKALIKES)}"
            now = max(now, end)


def _hundredths(seconds: float) -> int:
    return round(seconds * 100)


def _clock(hundredths: int) -> str:
    seconds, rest = divmod(hundredths, 100)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}.{rest:02}"
