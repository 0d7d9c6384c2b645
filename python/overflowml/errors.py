"""What can go wrong, each with a stable `code` and, where there is something to change, a `hint`."""

from __future__ import annotations

from . import _native

OverflowmlError = _native.OverflowmlError
Infeasible = _native.Infeasible
ModelError = _native.ModelError
ReadError = _native.ReadError
ClosedError = _native.ClosedError
ArgumentError = _native.ArgumentError


class UnsupportedObject(OverflowmlError, TypeError):
    """An object that cannot be optimised."""


class InUse(OverflowmlError, RuntimeError):
    """Something that cannot be done to an object while it is optimised."""


def refuse(kind: type[OverflowmlError], code: str, message: str, hint: str | None = None) -> OverflowmlError:
    """An error of `kind`, to be raised."""
    error = kind(message if hint is None else f"{message}\nhint: {hint}")
    error.code, error.hint = code, hint
    return error
