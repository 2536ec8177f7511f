"""The arms, in order of what they cost their user: a text, an adapter, an adapter that reads a text."""

from __future__ import annotations

from typing import Literal

ArmName = Literal["skill", "weights", "both"]
ARMS: tuple[ArmName, ...] = ("skill", "weights", "both")
