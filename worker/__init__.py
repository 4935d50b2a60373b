"""The back: the Celery worker, one process per card, and what runs an attempt."""
