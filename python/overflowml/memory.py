"""The machine's memory, without torch."""

from __future__ import annotations

import json

from . import _native


def _ram(what: str) -> int:
    return int(json.loads(_native.detect())["memory"][what]["value"])


def available_memory() -> int:
    """Bytes of memory that are free now, within the process's limits."""
    return _ram("available_bytes")


def total_memory() -> int:
    """Bytes of memory of the machine, within the process's limits."""
    return _ram("total_bytes")
