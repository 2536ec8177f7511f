"""The run folder on disk: atomic writes, checksummed append-only logs, the lock, and fault points for tests."""
