"""Which block goes into which slot next: the bookkeeping of a ring of slots, without any memory."""

from __future__ import annotations

from typing import Sequence


def spread(count: int, chosen: int) -> list[bool]:
    """`chosen` of `count` places, as evenly as can be: streaming and computing overlap all along the pass."""
    return [(index + 1) * chosen // count != index * chosen // count for index in range(count)] if count else []


class Ring:
    """Blocks that rotate through slots in a fixed order of uses, starting over at its end."""

    def __init__(self, order: Sequence[int], slots: int) -> None:
        self.order = list(order)
        self.held: list[int | None] = [None] * slots
        self.position = 0

    def slot_of(self, block: int) -> int | None:
        """Where `block` is, or will be once its copy has arrived."""
        return self.held.index(block) if block in self.held else None

    def victim(self, keep: int | None = None) -> int:
        """The slot whose block is needed last; never that of the block `keep`."""
        def next_use(slot: int) -> int:
            held = self.held[slot]
            return len(self.order) + 1 if held is None else self._distance(held)

        return max((s for s in range(len(self.held)) if keep is None or self.held[s] != keep), key=next_use)

    def used(self, block: int) -> None:
        """`block` was needed now: what comes after it is next, even if it came out of order."""
        distance = self._distance(block)
        if distance < len(self.order):
            self.position = (self.position + distance + 1) % len(self.order)

    def restart(self) -> None:
        """A pass begins."""
        self.position = 0

    def upcoming(self, free: int) -> int | None:
        """The block to load into the slot `free`: the soonest that no slot holds, if sooner than what is there."""
        worth = self._distance(self.held[free])
        for ahead in range(min(worth, len(self.order))):
            block = self.order[(self.position + ahead) % len(self.order)]
            if block not in self.held:
                return block
        return None

    def _distance(self, block: int | None) -> int:
        """Uses from now until `block` is needed."""
        if block is not None:
            for ahead in range(len(self.order)):
                if self.order[(self.position + ahead) % len(self.order)] == block:
                    return ahead
        return len(self.order)
