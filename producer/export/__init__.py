"""Batches on the submitter's own disk, a noun to a module."""
