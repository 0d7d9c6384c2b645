"""After the first passes the real need for activations is known: residency follows it, up or down, within the budget."""

from __future__ import annotations

from dataclasses import replace

from ..errors import Infeasible
from ..placement import ComponentRequest, place
from .manager import Manager
from .streamer import Streamer

MARGIN = 0.02
"""Of the budget, left free: two passes are rarely exactly alike."""


def adapt_residency(manager: Manager) -> None:
    """Has every streamed model adapt itself to the memory that its passes turn out to need."""
    if manager.budget_bytes is None or manager.request is None:
        return
    for component in manager.components:
        if isinstance(component, Streamer) and component.slot_count:
            component.adapt = _Adapter(manager, manager.budget_bytes)


class _Adapter:
    """Called before each pass; looks at the one before."""

    def __init__(self, manager: Manager, budget: int) -> None:
        self._manager, self._budget = manager, budget
        self._seen = 0
        self._needed = -1

    def __call__(self, streamer: Streamer) -> None:
        peak = self._manager.device.pass_peak()
        if streamer.stats.passes > self._seen:
            self._seen = streamer.stats.passes
            weights = sum(c.device_bytes() for c in self._manager.components if c.active)
            needed = max(0, peak - weights)
            if needed > self._needed:
                self._needed = needed
                self._refit(streamer)

    def _refit(self, streamer: Streamer) -> None:
        """Asks the planner again, with what was measured in the place of what was guessed."""
        request = self._manager.request
        assert request is not None
        margin = int(self._budget * MARGIN) if self._needed else 0
        measured = [self._measured(component, streamer.name, margin) for component in request.components]
        try:
            placement = place(replace(request, components=measured))
        except Infeasible:
            return
        decided = placement.of(streamer.name)
        if decided.precision != self._manager.precision_of(streamer.name):
            return
        flags = decided.flags() if decided.mode == "stream" else [True] * len(streamer.resident)
        if flags != streamer.resident:
            streamer.rearrange(flags, decided.slots if decided.mode == "stream" else 0)

    def _measured(self, component: ComponentRequest, name: str, margin: int) -> ComponentRequest:
        return replace(component, activation_bytes=self._needed + margin) if component.name == name else component
