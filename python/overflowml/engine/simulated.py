"""A device made of host memory: its own budget, a slow link, failures on demand.

With it the whole device path runs, and is tested, on machines without an accelerator: tensors "on the device" are host
tensors that count against the budget, copies happen later on a thread of their own, and whoever uses memory before its
copy has arrived reads poison.
"""

from __future__ import annotations

import queue
import threading
import time
import weakref
from dataclasses import dataclass

import torch

from .device import Mark, Traffic

POISON = 0xFF
"""Bytes of memory that was allocated and not yet copied to: NaN in every floating-point type."""


@dataclass
class Faults:
    """What goes wrong, and when."""

    allocations_before_failing: int | None = None
    refuse_pinning: bool = False
    copies_before_failing: int | None = None


class _SimulatedMark:
    def __init__(self, device: SimulatedDevice) -> None:
        self._event = threading.Event()
        self._device = device
        self.error: BaseException | None = None
        self.at = time.perf_counter()

    def reached(self) -> bool:
        return self._event.is_set()

    def reach(self, error: BaseException | None = None) -> None:
        self.error, self.at = error, time.perf_counter()
        self._event.set()

    def block_host(self) -> None:
        self._device.traffic.host_blocks += 1
        self.pause()

    def pause(self) -> None:
        """Waits as a queue would: not counted as the host waiting."""
        self._event.wait()
        if self.error is not None:
            raise self.error


class SimulatedDevice:
    """A `Device` with `budget` bytes, whose link moves `bytes_per_second` after `latency_seconds`."""

    where = torch.device("cpu")
    shares_host_memory = False

    def __init__(
        self, budget: int, *, latency_seconds: float = 0.0, bytes_per_second: float = float("inf"), faults: Faults | None = None
    ) -> None:
        self.name = "simulated"
        self.traffic = Traffic()
        self.faults = faults or Faults()
        self.pinned: set[int] = set()
        self._budget, self._latency, self._speed = budget, latency_seconds, bytes_per_second
        self._used = self._peak = self._pass_peak = 0
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[tuple[torch.Tensor, torch.Tensor, Mark | None, _SimulatedMark] | None] = queue.SimpleQueue()
        threading.Thread(target=_serve, args=(self._jobs, latency_seconds, bytes_per_second), daemon=True).start()
        weakref.finalize(self, self._jobs.put, None)

    def allocate(self, nbytes: int) -> torch.Tensor:
        with self._lock:
            faults = self.faults
            if faults.allocations_before_failing is not None:
                faults.allocations_before_failing -= 1
            failing = faults.allocations_before_failing is not None and faults.allocations_before_failing < 0
            if failing or self._used + nbytes > self._budget:
                free = self._budget - self._used
                raise torch.OutOfMemoryError(f"simulated device out of memory: {nbytes} bytes wanted, {free} free")
            self._used += nbytes
            self._peak, self._pass_peak = max(self._peak, self._used), max(self._pass_peak, self._used)
        with torch.inference_mode(False):
            memory = torch.full((nbytes,), POISON, dtype=torch.uint8)
        weakref.finalize(memory.untyped_storage(), self._free, nbytes)
        return memory

    def _free(self, nbytes: int) -> None:
        with self._lock:
            self._used -= nbytes

    def pin(self, slab: torch.Tensor) -> bool:
        if self.faults.refuse_pinning:
            return False
        self.pinned.add(slab.data_ptr())
        return True

    def unpin(self, slab: torch.Tensor) -> None:
        self.pinned.discard(slab.data_ptr())

    def copy(self, target: torch.Tensor, source: torch.Tensor, after: Mark | None) -> Mark:
        faults = self.faults
        if faults.copies_before_failing is not None:
            faults.copies_before_failing -= 1
            if faults.copies_before_failing < 0:
                raise RuntimeError("simulated device: the copy failed")
        done = _SimulatedMark(self)
        self.traffic.to_device_bytes += source.numel()
        self.traffic.copies += 1
        self._jobs.put((target, source, after, done))
        return done

    def mark(self, timed: bool = False) -> Mark:
        mark = _SimulatedMark(self)
        mark.reach()
        return mark

    def wait(self, mark: Mark) -> None:
        mark.pause()  # type: ignore[attr-defined]

    def milliseconds(self, first: Mark, second: Mark) -> float:
        return (second.at - first.at) * 1e3  # type: ignore[attr-defined, no-any-return]

    def allocated(self) -> int:
        return self._used

    def peak(self) -> int:
        return self._peak

    def reset_peak(self) -> None:
        self._peak = self._used

    def pass_peak(self) -> int:
        lately, self._pass_peak = self._pass_peak, self._used
        return lately

    def free_bytes(self) -> int:
        return self._budget - self._used

    def total_bytes(self) -> int:
        return self._budget

    def release_cache(self) -> None:
        pass

    def synchronize(self) -> None:
        done = _SimulatedMark(self)
        empty = torch.empty(0, dtype=torch.uint8)
        self._jobs.put((empty, empty, None, done))
        done.block_host()


def _serve(jobs: queue.SimpleQueue, latency: float, speed: float) -> None:  # type: ignore[type-arg]
    """The copy engine: one copy after the other, each poisoning its target until it is complete."""
    while (job := jobs.get()) is not None:
        target, source, after, done = job
        del job
        error: BaseException | None = None
        try:
            if after is not None:
                after.pause()  # type: ignore[attr-defined]
            if latency or speed != float("inf"):
                target.fill_(POISON)
                time.sleep(latency + source.numel() / speed)
            target.copy_(source)
        except BaseException as failure:
            error = failure.with_traceback(None)
        # Before anyone learns that the copy is done: memory that is freed then must be free.
        del target, source, after
        done.reach(error)
        del done, error
