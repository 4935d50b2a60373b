"""Speaker vectors by CAM++, the ONNX network that ships in the published folder."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError, ModelUnavailable
from .config import SPEAKER_SIZE
from .fbank import LEAST_SAMPLES, SAMPLE_RATE_HZ, speaker_features

FILE_NAME = "campplus.onnx"

Floats = npt.NDArray[np.float32]

_MOST_KEPT = 512
_THREADS = 2  # the network is small, and the card's process has other things to do


class SpeakerEncoder:
    """Audio to a vector of 192 values; those of audio that was seen before are kept. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        """Take the network of a checkpoint folder; it is read when it is first needed."""
        self._path = folder / FILE_NAME
        self._session: Any = None
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Floats] = OrderedDict()

    def embed(self, samples: Floats, checkpoint: Callable[[], None] = lambda: None) -> Floats:
        """The raw vector [192] of 16 kHz audio [S].

        Raises:
            InputError: There is less than one frame of audio.
            ModelUnavailable: onnxruntime or the file is missing.
        """
        if len(samples) < LEAST_SAMPLES:
            least_ms = 1000 * LEAST_SAMPLES // SAMPLE_RATE_HZ
            raise InputError(
                f"the reference audio is shorter than {least_ms} ms; give some seconds of speech"
            )
        key = hashlib.sha256(samples.tobytes()).hexdigest()
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        session = self._opened()
        checkpoint()
        name = session.get_inputs()[0].name
        vector = np.asarray(
            session.run(None, {name: speaker_features(samples)[None]})[0], np.float32
        ).reshape(-1)
        if vector.shape != (SPEAKER_SIZE,):
            raise ModelUnavailable(
                f"{self._path} gives {vector.size} values, not {SPEAKER_SIZE}: it is not CAM++"
            )
        with self._lock:
            self._kept[key] = vector
            if len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
        return vector

    def _opened(self) -> Any:
        with self._lock:
            if self._session is None:
                self._session = _open(self._path)
            return self._session


def _open(path: Path) -> Any:
    if not path.is_file():
        raise ModelUnavailable(
            f"{path} is missing, and voices of reference audio need it; it is part of the published folder"
        )
    try:
        import onnxruntime
    except ImportError as error:
        raise ModelUnavailable(
            "onnxruntime is missing, and voices of reference audio need it; pip install 'soundmill[speaker]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _THREADS
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelUnavailable(f"{path} cannot be read by onnxruntime; download it again") from error
