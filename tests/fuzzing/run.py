"""Feeds a target with what libFuzzer makes up, guided by what of our code it reaches.

Run by `scripts/fuzz TARGET [SECONDS] [LIBFUZZER-OPTION…]`; an input that breaks it is written to `crash-…`.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import atheris
import numpy as np
import soundfile

with atheris.instrument_imports(include=["soundmill", "tests.fuzzing", "csv", "json"]):
    from .targets import TARGETS, catalog


def seeds(name: str) -> Iterator[bytes]:
    """What a target begins with, where noise alone would hardly get anywhere."""
    if name == "manifest":
        yield b'{"id": "1", "model": "espeak-ng", "text": "Hi", "priority": 3, "args": {"language": "de"}}\n'
        yield b'{"audio_filepath": "a.wav", "duration": 1.0, "text": "Hi"}\n'
        yield b'id,text,language\n1,"Hi, ""you""",de\n'
        yield b"id\ttext\n1\tHi\n"
        yield b"LJ001-0001|Hi|hi\n"
        yield b"1|Hi|a.wav|Ho\n"
    if name == "arguments":
        for model in catalog():
            for field in model.arguments.model_fields:
                for value in ("en", 1, 0.5, True, None, [{"text": "a"}], {"job": "@a"}):
                    yield json.dumps({"text": "Hi", "audio": {"artifact": "0" * 64}, field: value}).encode()
    if name == "sound_file":
        for kind in ("WAV", "FLAC", "OGG", "MP3", "AIFF", "RF64"):
            buffer = io.BytesIO()
            soundfile.write(buffer, 0.1 * np.sin(np.arange(800) / 9), 16_000, format=kind)
            yield buffer.getvalue()
    if name == "message":
        yield b'[["01J"], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'
        yield b'{"method": "revoke", "arguments": {"task_id": ["01J"]}, "destination": ["x"]}'
    if name == "address":
        yield b"https://a.example.org:8443/x.wav?y=%20"


def main() -> None:
    """Fuzz one target for so many seconds."""
    name, seconds, *options = sys.argv[1:]
    corpus = Path(".fuzz", name)
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(name)):
        (corpus / f"seed-{number}").write_bytes(seed)
    atheris.Setup(
        [
            sys.argv[0],
            str(corpus),
            f"-max_total_time={seconds}",
            "-max_len=4096",
            "-timeout=20",
            f"-artifact_prefix={corpus.parent}/",
            *options,
        ],
        TARGETS[name],
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
