"""Adapters out of adapters: exact mixtures, searches over mixture coefficients, and races between mixtures."""
