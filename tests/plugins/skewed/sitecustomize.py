"""Puts the wall clock of a process off by `SKEW_S` seconds; on PYTHONPATH, Python runs it before anything else."""

import os
import time

_OFFSET_S = float(os.environ.get("SKEW_S", "0"))
_true_time = time.time
_true_time_ns = time.time_ns

time.time = lambda: _true_time() + _OFFSET_S
time.time_ns = lambda: _true_time_ns() + int(_OFFSET_S * 1e9)
