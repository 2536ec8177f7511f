"""Which singular directions of a matrix an SVF adapter scales. Pure: no torch, no disk."""

from __future__ import annotations

from typing import Literal

Keep = Literal["all", "top", "bottom", "spread"]


def chosen(total: int, keep: Keep, count: int | None) -> tuple[int, ...]:
    """Indices into the directions in the order of descending singular value, ascending and each once.

    `top` are the `count` greatest singular values, `bottom` the least, `spread` evenly from the greatest to the least; of a
    matrix with fewer directions than `count`, all of them. `all` needs no count. RL is reported to change weights away from
    the principal directions (2511.08567), so none of the choices is safe to prefer unseen.
    """
    if keep == "all" or count is None or count >= total:
        return tuple(range(total))
    if keep == "top":
        return tuple(range(count))
    if keep == "bottom":
        return tuple(range(total - count, total))
    if count == 1:
        return (total // 2,)
    return tuple(round(i * (total - 1) / (count - 1)) for i in range(count))
