"""Typed, strict YAML configuration."""
