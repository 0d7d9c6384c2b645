"""Sizes as people write them: ``8GiB``, ``1.5G``, a number of bytes."""

from __future__ import annotations

import re
from typing import Union

Size = Union[int, str]
"""A number of bytes, or text such as ``"8GiB"``, ``"8GB"`` or ``"1.5G"``."""

_UNITS = {
    "": 1, "b": 1,
    "k": 2**10, "kib": 2**10, "kb": 10**3,
    "m": 2**20, "mib": 2**20, "mb": 10**6,
    "g": 2**30, "gib": 2**30, "gb": 10**9,
    "t": 2**40, "tib": 2**40, "tb": 10**12,
}
_TEXT = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*([A-Za-z]*)\s*")


def parse_size(size: Size, what: str = "size") -> int:
    """The number of bytes that ``size`` names.

    Raises:
        ValueError: not a size, or negative.
        TypeError: neither an int nor text; a bare float is refused because bytes or GB could be meant.
    """
    if isinstance(size, bool) or not isinstance(size, (int, str)):
        raise TypeError(f'{what} is bytes as an int or text such as "8GiB", not {size!r}')
    if isinstance(size, int):
        if size < 0:
            raise ValueError(f"{what} cannot be negative: {size}")
        return size
    match = _TEXT.fullmatch(size)
    unit = _UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise ValueError(f'{what} `{size}` is not a size: write it like "8GiB", "8GB" or "8192MiB"')
    return int(float(match[1]) * unit)


def optional_size(size: Size | None, what: str) -> int | None:
    """`parse_size`, with ``None`` for "what is free now"."""
    return None if size is None else parse_size(size, what)


def show_size(nbytes: float) -> str:
    """``18.25 GiB``: binary units, two decimals."""
    for unit in ("B", "KiB", "MiB"):
        if abs(nbytes) < 1024:
            return f"{int(nbytes)} B" if unit == "B" else f"{nbytes:.2f} {unit}"
        nbytes /= 1024
    return f"{nbytes:.2f} GiB"
