"""Everything that was done to one object, and how to undo it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Callable

from ..errors import InUse, refuse

if TYPE_CHECKING:
    from ..placement import Placement, PlacementRequest
    from ..report import Report
    from .component import Component
    from .device import Device


@dataclass(eq=False)
class Manager:
    """The components of one optimised object, in the order in which they were taken over."""

    device: Device
    components: list[Component] = field(default_factory=list)
    undo: list[Callable[[], None]] = field(default_factory=list)
    placement: Placement | None = None
    request: PlacementRequest | None = None
    budget_bytes: int | None = None
    notes: list[str] = field(default_factory=list)
    load_seconds: float = 0.0

    def make_room(self, coming: Component) -> None:
        """Sends away other components that are not needed now, if `coming` would not fit beside them."""
        if self.budget_bytes is None:
            others = [c for c in self.components if c.active and c is not coming]
        else:
            others = self._in_the_way(coming, self.budget_bytes)
        for component in others:
            component.deactivate()

    def _in_the_way(self, coming: Component, budget: int) -> list[Component]:
        active = [c for c in self.components if c.active and c is not coming]
        needed = coming.device_bytes() + coming.activation_bytes
        leaving = []
        for component in active:
            if sum(c.device_bytes() for c in active if c not in leaving) + needed <= budget:
                break
            leaving.append(component)
        return leaving

    def precision_of(self, name: str) -> str:
        """What the weights of one model are stored in."""
        return self.placement.of(name).precision if self.placement is not None else "exact"

    def restore(self) -> None:
        """Puts everything back as it was."""
        while self.undo:
            self.undo.pop()()
        self.components = []

    def report(self) -> Report:
        from ..report import make_report

        return make_report(self)

    def __reduce__(self) -> Any:
        raise refuse(
            InUse, "python.in-use", "this object is optimised: its weights are on their way between memory and device",
            "call overflowml.restore(obj) first, then copy or pickle it",
        )

    def __deepcopy__(self, _memo: Any) -> Manager:
        self.__reduce__()
        raise AssertionError


MARK = "_overflowml_manager"
"""Where a managed object keeps its manager: copying or pickling the object meets it, and is refused in words."""


def manager_of(obj: Any) -> Manager | None:
    """The manager of an optimised object, or nothing."""
    return getattr(obj, "__dict__", {}).get(MARK)


def remember(obj: Any, manager: Manager) -> None:
    # First in the dict, because whoever pickles the object should meet it before our hooks.
    others = dict(obj.__dict__)
    obj.__dict__.clear()
    obj.__dict__.update({MARK: manager, **others})


def forget(obj: Any) -> None:
    obj.__dict__.pop(MARK, None)
