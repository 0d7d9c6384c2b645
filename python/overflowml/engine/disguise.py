"""Objects that ask their parameters where they are would be told where weights wait; they are told where they compute."""

from __future__ import annotations

from typing import Any, Callable

import torch


def computes_on(obj: Any, where: torch.device, **methods: Any) -> Callable[[], None]:
    """Gives `obj` alone a class of the same name whose `device` is `where`; returns what undoes it.

    Objects whose class has no `device` are left as they are, unless there are `methods` to replace.
    """
    original = type(obj)
    on_device = property(lambda self: where)
    members = {name: on_device for name in ("device", "_execution_device") if isinstance(getattr(original, name, None), property)}
    if not members and not methods:
        return lambda: None
    disguised = type(original.__name__, (original,), {**members, **methods, "__module__": original.__module__})
    disguised.__qualname__ = original.__qualname__
    obj.__class__ = disguised

    def undo() -> None:
        obj.__class__ = original

    return undo
