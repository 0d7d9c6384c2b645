"""The host as the device that computes: nothing travels, memory is the process's own."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import torch

from ..memory import available_memory, total_memory
from .device import Mark, Traffic


@dataclass
class _Now:
    at: float

    def reached(self) -> bool:
        return True

    def block_host(self) -> None: ...


class HostDevice:
    """Implements `Device` where computing happens in the memory that weights are in."""

    shares_host_memory = True

    def __init__(self) -> None:
        self.name, self.where, self.traffic = "cpu", torch.device("cpu"), Traffic()

    def allocate(self, nbytes: int) -> torch.Tensor:
        return torch.empty(nbytes, dtype=torch.uint8)

    def pin(self, slab: torch.Tensor) -> bool:
        return False

    def unpin(self, slab: torch.Tensor) -> None: ...

    def copy(self, target: torch.Tensor, source: torch.Tensor, after: Mark | None) -> Mark:
        target.copy_(source)
        return _Now(time.perf_counter())

    def mark(self, timed: bool = False) -> Mark:
        return _Now(time.perf_counter())

    def wait(self, mark: Mark) -> None: ...

    def milliseconds(self, first: Mark, second: Mark) -> float:
        return (second.at - first.at) * 1e3  # type: ignore[attr-defined, no-any-return]

    def allocated(self) -> int:
        return 0

    def peak(self) -> int:
        """The most memory that the process has had resident."""
        try:
            import resource
        except ImportError:
            return 0
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024

    def reset_peak(self) -> None: ...

    def pass_peak(self) -> int:
        return self.peak()

    def free_bytes(self) -> int:
        return available_memory()

    def total_bytes(self) -> int:
        return total_memory()

    def release_cache(self) -> None: ...

    def synchronize(self) -> None: ...
