"""Run AI models larger than your memory."""

from overflowml._native import (
    ArgumentError,
    ClosedError,
    Infeasible,
    ModelError,
    OverflowmlError,
    ReadError,
    __version__,
)

__all__ = [
    "ArgumentError",
    "ClosedError",
    "Infeasible",
    "ModelError",
    "OverflowmlError",
    "ReadError",
    "__version__",
]
