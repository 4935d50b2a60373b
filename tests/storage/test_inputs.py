from __future__ import annotations

import io
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from soundmill.storage.blobs import LocalBlobStore
from soundmill.storage.errors import InputRefused, StorageFull
from soundmill.storage.examiner import Examiner
from soundmill.storage.inputs import InputStore

RATE_HZ = 16_000


def tone(seconds: float = 2.0, channels: int = 1) -> NDArray[np.float32]:
    wave = 0.3 * np.sin(np.arange(round(seconds * RATE_HZ)) * 0.05)
    return np.repeat(wave[:, None], channels, axis=1).astype(np.float32)


def encoded(wave: NDArray[np.float32] | None = None, kind: str = "WAV", subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, tone() if wave is None else wave, RATE_HZ, format=kind, subtype=subtype)
    return buffer.getvalue()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "audio"
    folder.mkdir()
    return folder


@pytest.fixture
def blobs(tmp_path: Path) -> Iterator[LocalBlobStore]:
    """A store that is clean afterwards: no test may leave a half-written file in it."""
    store = LocalBlobStore(tmp_path / "blobs")
    yield store
    assert not list((store.root / ".scratch").iterdir())


@pytest.fixture(scope="module")
def examiner() -> Iterator[Examiner]:
    """Processes that all tests here may use."""
    found = Examiner(60)
    yield found
    found.close()


@pytest.fixture
def inputs(blobs: LocalBlobStore, root: Path, examiner: Examiner) -> InputStore:
    return InputStore(blobs, [root], max_audio_s=60, max_bytes=4_000_000, examiner=examiner)


@pytest.mark.parametrize(
    ("kind", "subtype", "media_type"),
    [
        ("WAV", "PCM_16", "audio/wav"),
        ("WAV", "PCM_24", "audio/wav"),
        ("WAV", "FLOAT", "audio/wav"),
        ("WAVEX", "PCM_16", "audio/wav"),
        ("RF64", "PCM_16", "audio/wav"),
        ("FLAC", "PCM_16", "audio/flac"),
        ("MP3", "MPEG_LAYER_III", "audio/mpeg"),
        ("OGG", "VORBIS", "audio/ogg"),
        ("OGG", "OPUS", "audio/ogg"),
        ("AIFF", "PCM_16", "audio/aiff"),
    ],
)
def test_a_whole_file_is_stored_with_its_decoded_length(
    inputs: InputStore, blobs: LocalBlobStore, root: Path, kind: str, subtype: str, media_type: str
) -> None:
    content = encoded(tone(2.5), kind, subtype)
    path = root / "clip"
    path.write_bytes(content)
    audio = inputs.from_path(path)
    assert audio.duration_s == pytest.approx(2.5, abs=1e-9)
    assert (audio.sample_rate, audio.channels, audio.media_type) == (RATE_HZ, 1, media_type)
    assert audio.size == len(content)
    with blobs.open(audio.sha256) as stream:
        assert stream.read() == content
    assert path.read_bytes() == content
    assert inputs.from_bytes(content) == audio
    assert inputs.from_blob(audio.sha256) == audio


def refusal(inputs: InputStore, content: bytes) -> str:
    with pytest.raises(InputRefused) as caught:
        inputs.from_bytes(content, field="prompt_audio")
    assert caught.value.field == "prompt_audio"
    return str(caught.value)


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [
        ("WAV", "PCM_16"),
        ("WAVEX", "PCM_16"),
        ("RF64", "PCM_16"),
        ("FLAC", "PCM_16"),
        ("MP3", "MPEG_LAYER_III"),
        ("OGG", "VORBIS"),
        ("OGG", "OPUS"),
        ("AIFF", "PCM_16"),
    ],
)
@pytest.mark.parametrize("kept", [0.35, 0.6, 0.97])
def test_a_truncated_file_is_refused(inputs: InputStore, kind: str, subtype: str, kept: float) -> None:
    noise = np.random.default_rng(1).normal(0, 0.1, (5 * RATE_HZ, 1)).astype(np.float32)
    content = encoded(noise, kind, subtype)
    assert "truncated" in refusal(inputs, content[: int(len(content) * kept)])


def test_a_wav_that_lacks_its_last_byte_is_refused(inputs: InputStore) -> None:
    assert "at least 1 bytes are missing" in refusal(inputs, encoded()[:-1])


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF024, 0x80000000])
def test_a_wav_written_to_a_pipe_does_not_count_as_truncated(inputs: InputStore, size: int) -> None:
    content = bytearray(encoded())
    at = content.index(b"data")
    content[at + 4 : at + 8] = struct.pack("<I", size)
    assert inputs.from_bytes(bytes(content)).duration_s == 2.0


def test_an_mp3_that_does_not_state_its_length_is_taken_as_it_decodes(inputs: InputStore) -> None:
    content = bytearray(encoded(tone(5), "MP3"))
    at = max(content.find(b"Xing"), content.find(b"Info"))
    content[at : at + 4] = b"None"
    assert inputs.from_bytes(bytes(content[: len(content) * 2 // 3])).duration_s > 0


def test_a_flac_written_to_a_pipe_has_to_be_encoded_again(inputs: InputStore) -> None:
    content = bytearray(encoded(kind="FLAC"))
    content[21] &= 0xF0  # STREAMINFO's 36 bits of total samples
    content[22:26] = bytes(4)
    assert "does not say how long it is" in refusal(inputs, bytes(content))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_numbers_are_refused(inputs: InputStore, value: float) -> None:
    wave = tone(8)
    wave[-1] = value
    assert "NaN or infinite" in refusal(inputs, encoded(wave, subtype="FLOAT"))


@pytest.mark.parametrize(
    "content",
    [b"hello, this is text", b"RIFF" + bytes(40), b"fLaC" + bytes(60), b"OggS" + bytes(60), bytes(50_000), b"ID3", b"x"],
)  # fmt: skip
def test_what_is_not_audio_is_refused_without_being_quoted(inputs: InputStore, content: bytes) -> None:
    sentence = refusal(inputs, content)
    assert "give WAV, FLAC, MP3, Ogg or AIFF" in sentence
    assert "hello" not in sentence


def test_an_empty_file_and_one_without_samples_are_told_apart(inputs: InputStore) -> None:
    assert "is empty (0 bytes)" in refusal(inputs, b"")
    assert "holds no samples" in refusal(inputs, encoded(tone(0)))


def test_other_formats_of_the_library_are_refused_with_those_that_are_taken(inputs: InputStore) -> None:
    assert "in the format AU; convert it to WAV" in refusal(inputs, encoded(kind="AU"))


def test_too_many_channels_are_refused(inputs: InputStore) -> None:
    assert "has 9 channels" in refusal(inputs, encoded(tone(0.1, channels=9)))
    assert inputs.from_bytes(encoded(tone(0.1, channels=8))).channels == 8


@pytest.mark.parametrize("rate_hz", [1, 3_999, 384_001, 4_000_000])
def test_absurd_sample_rates_are_refused(inputs: InputStore, rate_hz: int) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(0.1), rate_hz, format="WAV")
    assert f"sample rate of {rate_hz} Hz" in refusal(inputs, buffer.getvalue())


def test_audio_beyond_the_longest_is_refused(inputs: InputStore) -> None:
    assert "longer than 60 s" in refusal(inputs, encoded(tone(60.1)))
    assert inputs.from_bytes(encoded(tone(60))).duration_s == 60


def test_a_few_bytes_that_unpack_to_hours_are_refused(inputs: InputStore) -> None:
    silence = np.zeros((600 * RATE_HZ, 1), dtype=np.float32)
    bomb = bytearray(encoded(silence, "FLAC"))
    assert len(bomb) < 200_000
    # Its header claims less than the limit: the decoder has to notice.
    claimed = 10 * RATE_HZ
    bomb[21] &= 0xF0
    bomb[22:26] = struct.pack(">I", claimed)
    with pytest.raises(InputRefused):
        InputStore(inputs._blobs, [], max_audio_s=5, max_bytes=4_000_000).from_bytes(bytes(bomb))


def test_a_file_beyond_the_largest_is_refused(inputs: InputStore, root: Path) -> None:
    (root / "large.wav").write_bytes(bytes(4_000_001))
    with pytest.raises(InputRefused, match=r"large\.wav has more than 4000000 bytes"):
        inputs.from_path(root / "large.wav")
    assert "max_input_bytes" in refusal(inputs, bytes(4_000_001))


def test_a_relative_path_is_meant_from_the_current_folder(
    inputs: InputStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "clip.wav").write_bytes(encoded())
    monkeypatch.chdir(root)
    assert inputs.from_path("clip.wav").duration_s == 2.0


def test_a_link_within_the_roots_is_followed(inputs: InputStore, root: Path) -> None:
    (root / "clip.wav").write_bytes(encoded())
    (root / "link.wav").symlink_to("clip.wav")
    assert inputs.from_path(root / "link.wav").duration_s == 2.0


@pytest.mark.parametrize(
    "path", ["../secret.wav", "link.wav", "folder/secret.wav", "/etc/passwd", "../audio-too/secret.wav"]
)
def test_a_way_out_of_the_roots_is_refused_whether_or_not_something_is_there(
    inputs: InputStore, root: Path, path: str
) -> None:
    (root.parent / "audio-too").mkdir()
    for secret in (root.parent / "secret.wav", root.parent / "audio-too/secret.wav"):
        secret.write_bytes(encoded())
    (root / "link.wav").symlink_to(root.parent / "secret.wav")
    (root / "folder").symlink_to(root.parent)
    with pytest.raises(InputRefused, match="outside the folders") as caught:
        inputs.from_path(root / path, field="audio")
    assert caught.value.field == "audio"
    with pytest.raises(InputRefused, match="outside the folders"):
        inputs.from_path(root / ".." / "nothing-here.wav")


def test_a_folder_exchanged_after_the_check_is_noticed(
    inputs: InputStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = root.parent / "outside"
    for folder in (root / "day", outside):
        folder.mkdir()
        (folder / "clip.wav").write_bytes(encoded())
    real_open = os.open

    def exchange_first(path: Path, flags: int) -> int:
        monkeypatch.setattr(os, "open", real_open)
        (root / "day").rename(root / "was-day")
        (root / "day").symlink_to(outside)
        return real_open(path, flags)

    monkeypatch.setattr(os, "open", exchange_first)
    with pytest.raises(InputRefused, match="outside the folders"):
        inputs.from_path(root / "day/clip.wav")


def test_what_is_no_file_is_refused_at_once(inputs: InputStore, root: Path) -> None:
    os.mkfifo(root / "pipe")
    (root / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "socket"))
        for name, sentence in [
            ("pipe", "is a pipe"),
            ("folder", "is a folder"),
            ("socket", "cannot be read"),
            ("absent.wav", "No such file"),
            ("nul\0.wav", "no file name"),
            ("x" * 300, "File name too long"),
        ]:
            with pytest.raises(InputRefused, match=sentence):
                inputs.from_path(root / name)


def test_a_device_is_refused(blobs: LocalBlobStore) -> None:
    with pytest.raises(InputRefused, match="is a device"):
        InputStore(blobs, [Path("/dev")], max_audio_s=60, max_bytes=1000).from_path("/dev/zero")


def test_without_roots_no_path_is_read(blobs: LocalBlobStore, root: Path) -> None:
    (root / "clip.wav").write_bytes(encoded())
    with pytest.raises(InputRefused, match="none"):
        InputStore(blobs, [], max_audio_s=60, max_bytes=1000).from_path(root / "clip.wav")


def test_taking_a_stored_blob_makes_it_young(inputs: InputStore, blobs: LocalBlobStore) -> None:
    audio = inputs.from_bytes(encoded())
    with blobs.fetch(audio.sha256) as path:
        os.utime(path, (1000, 1000))
    inputs.from_blob(audio.sha256)
    assert not blobs.delete(audio.sha256, older_than=2000)


@pytest.mark.parametrize("name", ["0" * 64, "../../etc/passwd"])
def test_a_blob_that_is_not_stored_is_refused(inputs: InputStore, name: str) -> None:
    with pytest.raises(InputRefused, match="is not stored here"):
        inputs.from_blob(name)


def test_nothing_is_kept_of_what_is_refused(inputs: InputStore, blobs: LocalBlobStore) -> None:
    refusal(inputs, b"no audio")
    assert list(blobs.list()) == []


def test_a_full_disk_is_not_the_submitters_fault(inputs: InputStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(StorageFull):
        inputs.from_bytes(encoded())
