"""hybrid: decide by measurement where each capability of a language model should live, in text or in weights."""

__version__ = "0.1.0"
