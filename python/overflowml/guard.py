"""`MemoryGuard`: frees cached memory between the rounds of a loop, when there is a reason to."""

from __future__ import annotations

import gc
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Iterable, Iterator, TypeVar

if TYPE_CHECKING:
    from .engine.device import Device

T = TypeVar("T")


@dataclass
class GuardReport:
    """What a guard saw."""

    rounds: int = 0
    cleanups: int = 0
    peak_bytes: int = 0
    freed_bytes: int = 0


class MemoryGuard:
    """Keeps a loop from running out of device memory.

    Use it around each round (``with guard: ...``), or around the loop (``for x in guard.over(items): ...``). Below the
    threshold a round costs a look at two counters; above it caches are emptied. An exception passes through untouched.

    Args:
        threshold: share of the device's memory that may be in use before caches are emptied.
        verbose: tell on stderr when that happens.
        device: by default the accelerator, if there is one; without one, main memory.
    """

    def __init__(self, threshold: float = 0.7, verbose: bool = False, *, device: Device | None = None) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold is a share between 0 and 1, not {threshold}")
        self.threshold, self.verbose = threshold, verbose
        self.report = GuardReport()
        self._device = device
        self._looked = device is not None

    def __enter__(self) -> MemoryGuard:
        device = self._find_device()
        if device is not None:
            device.reset_peak()
        return self

    def __exit__(self, *_: object) -> None:
        self.report.rounds += 1
        device = self._find_device()
        if device is None:
            return
        self.report.peak_bytes = max(self.report.peak_bytes, device.peak())
        if self.used_share() > self.threshold:
            self.cleanup()

    def over(self, items: Iterable[T]) -> Iterator[T]:
        """`items`, each round guarded."""
        for item in items:
            with self:
                yield item

    def used_share(self) -> float:
        """How full the device is, caches included."""
        device = self._find_device()
        if device is None:
            return 0.0
        total = device.total_bytes()
        return 1 - _truly_free(device) / total if total else 0.0

    def cleanup(self) -> int:
        """Collects garbage and gives cached memory back; returns how many bytes became free."""
        device = self._find_device()
        gc.collect()
        if device is None:
            return 0
        before = _truly_free(device)
        device.release_cache()
        freed = max(0, _truly_free(device) - before)
        self.report.cleanups += 1
        self.report.freed_bytes += freed
        if self.verbose:
            from .sizes import show_size

            print(f"MemoryGuard: {show_size(freed)} freed, {self.used_share():.0%} in use", file=sys.stderr)
        return freed

    def _find_device(self) -> Device | None:
        if not self._looked:
            self._looked = True
            from .engine.device import accelerator
            from .engine.hostdevice import HostDevice

            self._device = accelerator() or HostDevice()
        return self._device


def _truly_free(device: Any) -> int:
    """Free for anyone: what a cache holds is not."""
    look = getattr(device, "driver_free_bytes", device.free_bytes)
    return int(look())
