"""The arguments of every kind of job, as the catalogue checks them and the job table keeps them.

A default is written here and nowhere else: a row carries every field. Unknown fields are refused.
A change that old rows would not survive raises `version` and adds a branch to `upgrade`. Each family
has a file; what plugins need for models of their own is here.
"""

from .base import (
    SAMPLE_RATES_HZ,
    AlignmentFormat,
    Arguments,
    ArtifactInput,
    AudioFormat,
    AudioInput,
    JobInput,
    Text,
    check_rate,
    speakable,
)

__all__ = [
    "SAMPLE_RATES_HZ",
    "AlignmentFormat",
    "Arguments",
    "ArtifactInput",
    "AudioFormat",
    "AudioInput",
    "JobInput",
    "Text",
    "check_rate",
    "speakable",
]
