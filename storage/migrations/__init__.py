"""The migrations of the job table, one script for each version, run by `storage/schema.py`.

Scripts are written by hand and numbered: `versions/0002_what_changes.py` with `revision = "0002"`.
They run on SQLite and PostgreSQL in one transaction, and describe the tables of their own time: they
import nothing of ours.
"""

HEAD = "0003"
"""The version that this code works with: the last script."""
