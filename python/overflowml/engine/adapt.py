"""After the first passes the real need for activations is known: residency follows it, up or down, within the budget."""

from __future__ import annotations

from .manager import Manager
from .ring import spread
from .streamer import Streamer

MARGIN = 0.02
"""Of the budget, left free: two passes are rarely exactly alike."""


def adapt_residency(manager: Manager) -> None:
    """Has every streamed model adapt itself to the memory that its passes turn out to need."""
    if manager.budget_bytes is None:
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
        device = self._manager.device
        if streamer.stats.passes > self._seen:
            self._seen = streamer.stats.passes
            weights = sum(c.device_bytes() for c in self._manager.components if c.active)
            needed = max(0, device.peak() - weights)
            if needed > self._needed:
                self._needed = needed
                self._refit(streamer, weights - streamer.device_bytes() + needed)
        device.reset_peak()

    def _refit(self, streamer: Streamer, beside: int) -> None:
        """As many residents as the budget holds beside `beside` bytes of other things."""
        sizes = [home.slab.numel() for home in streamer.homes]
        room = int(self._budget * (1 - MARGIN)) - beside - streamer.fixed.slab.numel()
        if sum(sizes) <= room:
            streamer.rearrange([True] * len(sizes), 0)
            return
        slots = max(streamer.slot_count, 2)
        room -= slots * max(sizes)
        count = len(sizes) - 1
        while count and sum(size for size, stays in zip(sizes, spread(len(sizes), count)) if stays) > room:
            count -= 1
        if count != sum(streamer.resident):
            streamer.rearrange(spread(len(sizes), count), slots)
