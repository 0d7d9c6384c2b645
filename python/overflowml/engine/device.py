"""What the engine needs of a device: memory, a copy queue beside the computing queue, and marks in both.

A mark is a point in a queue. Queues wait for marks, the host never does: that is what keeps copying and computing
busy at the same time.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from dataclasses import dataclass
from typing import Any, Protocol

import torch

PIN_CHUNK = 1 << 30
"""Memory is registered in pieces of this size: some systems refuse larger ones, and a limit is found with less work."""


class Mark(Protocol):
    """A point in a queue that has been, or will be, reached."""

    def reached(self) -> bool: ...

    def block_host(self) -> None: ...


@dataclass
class Traffic:
    """What went over the link."""

    to_device_bytes: int = 0
    copies: int = 0
    from_device_bytes: int = 0
    host_blocks: int = 0
    """How often the host had to wait for the device."""


class Device(Protocol):
    """A place that computes, with memory of its own."""

    name: str
    where: torch.device
    traffic: Traffic
    shares_host_memory: bool
    """Whether it computes in the memory that weights are at home in."""

    def allocate(self, nbytes: int) -> torch.Tensor:
        """Uninitialised bytes on the device. Raises `torch.OutOfMemoryError` (or its like) when full."""

    def pin(self, slab: torch.Tensor) -> bool:
        """Makes host memory fit for copies that run beside the host; false where the system refuses."""

    def unpin(self, slab: torch.Tensor) -> None: ...

    def copy(self, target: torch.Tensor, source: torch.Tensor, after: Mark | None) -> Mark:
        """Queues a copy to the device that starts once `after` is reached."""

    def mark(self, timed: bool = False) -> Mark:
        """The point that the computing queue has come to."""

    def wait(self, mark: Mark) -> None:
        """Nothing queued for computing from here on starts before `mark` is reached."""

    def milliseconds(self, first: Mark, second: Mark) -> float: ...

    def allocated(self) -> int: ...

    def peak(self) -> int: ...

    def reset_peak(self) -> None: ...

    def pass_peak(self) -> int:
        """The most in use since this was last called; `peak` is not affected."""

    def free_bytes(self) -> int: ...

    def total_bytes(self) -> int: ...

    def release_cache(self) -> None: ...

    def synchronize(self) -> None: ...


class _EventMark:
    def __init__(self, event: Any, traffic: Traffic) -> None:
        self.event = event
        self._traffic = traffic

    def reached(self) -> bool:
        return bool(self.event.query())

    def block_host(self) -> None:
        self._traffic.host_blocks += 1
        self.event.synchronize()


class AcceleratorDevice:
    """Any device that `torch.accelerator` knows and that has memory of its own."""

    shares_host_memory = False

    def __init__(self, where: torch.device) -> None:
        index = where.index if where.index is not None else torch.accelerator.current_device_index()
        self.where = torch.device(where.type, index)
        self.name = str(self.where)
        self.traffic = Traffic()
        self._api = torch.get_device_module(self.where)
        self._copies = self._api.Stream(device=self.where)
        self._highest = 0

    def allocate(self, nbytes: int) -> torch.Tensor:
        # Also under inference_mode: what is allocated there cannot be written to outside.
        with torch.inference_mode(False):
            return torch.empty(nbytes, dtype=torch.uint8, device=self.where)

    def pin(self, slab: torch.Tensor) -> bool:
        return pin_host_memory(slab)

    def unpin(self, slab: torch.Tensor) -> None:
        unpin_host_memory(slab)

    def copy(self, target: torch.Tensor, source: torch.Tensor, after: Mark | None) -> Mark:
        with self._api.stream(self._copies):
            if after is not None:
                self._copies.wait_event(after.event)  # type: ignore[attr-defined]
            target.copy_(source, non_blocking=True)
            done = self._api.Event(enable_timing=False)
            done.record(self._copies)
        self.traffic.to_device_bytes += source.numel()
        self.traffic.copies += 1
        return _EventMark(done, self.traffic)

    def mark(self, timed: bool = False) -> Mark:
        event = self._api.Event(enable_timing=timed)
        event.record(self._api.current_stream(self.where))
        return _EventMark(event, self.traffic)

    def wait(self, mark: Mark) -> None:
        self._api.current_stream(self.where).wait_event(mark.event)  # type: ignore[attr-defined]

    def milliseconds(self, first: Mark, second: Mark) -> float:
        return float(first.event.elapsed_time(second.event))  # type: ignore[attr-defined]

    def allocated(self) -> int:
        return int(self._api.memory_allocated(self.where))

    def peak(self) -> int:
        return max(self._highest, int(self._api.max_memory_allocated(self.where)))

    def reset_peak(self) -> None:
        self._highest = 0
        self._api.reset_peak_memory_stats(self.where)

    def pass_peak(self) -> int:
        lately = int(self._api.max_memory_allocated(self.where))
        self._highest = max(self._highest, lately)
        self._api.reset_peak_memory_stats(self.where)
        return lately

    def free_bytes(self) -> int:
        cached = int(self._api.memory_reserved(self.where)) - self.allocated()
        return int(self._api.mem_get_info(self.where)[0]) + cached

    def driver_free_bytes(self) -> int:
        """Free for other programs, too: what torch's cache holds is not."""
        return int(self._api.mem_get_info(self.where)[0])

    def total_bytes(self) -> int:
        return int(self._api.mem_get_info(self.where)[1])

    def release_cache(self) -> None:
        self._api.empty_cache()

    def synchronize(self) -> None:
        self._api.synchronize(self.where)


_pinned: dict[int, list[tuple[int, int]]] = {}
_pinned_lock = threading.Lock()


def pin_host_memory(slab: torch.Tensor) -> bool:
    """Registers the memory of `slab` for direct copies, exactly its size; false where that is refused.

    Undone by `unpin_host_memory`, or when the memory is freed.
    """
    runtime = _runtime()
    if runtime is None or not slab.numel():
        return False
    pieces = []
    for first in range(0, slab.numel(), PIN_CHUNK):
        nbytes = min(PIN_CHUNK, slab.numel() - first)
        if _failed(runtime.cudaHostRegister(slab.data_ptr() + first, nbytes, 0)):
            _unregister(pieces)
            return False
        pieces.append((slab.data_ptr() + first, nbytes))
    with _pinned_lock:
        _pinned[slab.data_ptr()] = pieces
    weakref.finalize(slab.untyped_storage(), _unpin_address, slab.data_ptr())
    return True


def unpin_host_memory(slab: torch.Tensor) -> None:
    """Gives back what `pin_host_memory` registered; does nothing for other memory."""
    _unpin_address(slab.data_ptr())


def _unpin_address(address: int) -> None:
    with _pinned_lock:
        pieces = _pinned.pop(address, [])
    _unregister(pieces)


def _unregister(pieces: list[tuple[int, int]]) -> None:
    runtime = _runtime()
    for address, _ in pieces:
        if runtime is not None:
            _failed(runtime.cudaHostUnregister(address))


def _failed(code: object) -> bool:
    return int(code) != 0  # type: ignore[call-overload, no-any-return]


def _runtime() -> Any | None:
    """CUDA's (or HIP's) runtime, which registers memory; `None` elsewhere."""
    if not torch.cuda.is_available():
        return None
    with contextlib.suppress(Exception):
        return torch.cuda.cudart()
    return None


def host_slab(nbytes: int) -> torch.Tensor:
    """Bytes of host memory, aligned for any tensor, exactly as many as asked for (to a page)."""
    if not nbytes:
        return torch.empty(0, dtype=torch.uint8)
    with torch.inference_mode(False):
        whole = torch.empty(nbytes + 4096, dtype=torch.uint8)
    skipped = -whole.data_ptr() % 4096
    return whole[skipped : skipped + nbytes]


def accelerator() -> AcceleratorDevice | None:
    """The machine's accelerator, unless its memory is the host's."""
    if not torch.accelerator.is_available():
        return None
    where = torch.accelerator.current_accelerator()
    if where is None or where.type == "mps":
        return None
    return AcceleratorDevice(where)


__all__ = ["AcceleratorDevice", "Device", "Mark", "Traffic", "accelerator", "host_slab", "pin_host_memory", "unpin_host_memory"]
