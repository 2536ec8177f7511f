"""Capabilities: examples in splits, their sources and their graders."""
