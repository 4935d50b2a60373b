"""What can go wrong in storage: the job table, the blobs and the broker.

StorageError
├── SettingsError          a setting is unknown, malformed or contradicts another
├── StorageUnavailable     the database, the blobs or the broker cannot be reached just now
│   ├── StorageFull        no space left for what was to be written
│   └── BrokerUnavailable  Redis, of the three; what is in the job table goes on without it
├── Unstorable             a value that the job table cannot keep
├── NewerSchema            a later soundmill has migrated the database
├── BrokerNotFound         no Redis or Valkey server to start and no address given
├── NotFound               no such job, batch, artifact or queue
├── SubmitRefused          the job cannot be accepted as it is; names the field
│   ├── UnknownModel       the catalogue has no such model
│   ├── InputRefused       the input audio cannot be used
│   └── IdempotencyConflict  the key was used before with other arguments
└── StateConflict          the job is in a state from which this cannot be done
"""

from __future__ import annotations


class StorageError(Exception):
    """The base of all; the message is a sentence that says what to change."""


class SettingsError(StorageError):
    """A setting cannot be used. The message names it, where it came from and what it may be."""


class StorageUnavailable(StorageError):
    """The database, the blobs or the broker did not answer. Trying again later is right."""


class StorageFull(StorageUnavailable):
    """No space left on the device. Free some, or move the state folder; nothing half-written stays."""


class BrokerUnavailable(StorageUnavailable):
    """Redis did not answer. Messages are late; the job table and its leases are not concerned."""


class Unstorable(StorageError):
    """The job table cannot keep a value: NaN, a NUL character in a text, more than its column holds.

    The row is at fault and not the database: trying again does not help.
    """


class NewerSchema(StorageError):
    """The tables are of a later version than this code knows. Install that soundmill here too."""


class BrokerNotFound(StorageError):
    """There is no server to run as the embedded broker. The message has the line that installs one."""


class NotFound(StorageError):
    """Nothing is stored under that id."""


class SubmitRefused(StorageError):
    """The job was not accepted, and nothing of it was kept.

    Attributes:
        field: The dotted name of the argument at fault, or `None` when it is the whole job.
    """

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class UnknownModel(SubmitRefused):
    """The catalogue has no model of that name, or it does another kind of job."""


class InputRefused(SubmitRefused):
    """The input audio is missing, empty, truncated, not audio, too long or outside the allowed roots."""


class IdempotencyConflict(SubmitRefused):
    """The idempotency key belongs to a job with other arguments; choose another key or repeat those."""


class StateConflict(StorageError):
    """The job is not in a state from which this can be done; the message says which it is in."""
