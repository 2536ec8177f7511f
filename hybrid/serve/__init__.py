"""Giving a finished run to others: the exported folder of skills and adapters."""
