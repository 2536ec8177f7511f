"""Backends: who generates completions."""
