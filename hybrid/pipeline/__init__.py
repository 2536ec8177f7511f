"""The run: stages in order, resume, verification and the report."""
