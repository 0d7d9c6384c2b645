"""The Rust half: plain numbers, memory and JSON text. The package's own modules are nicer to use."""

from collections.abc import Callable, Sequence
from os import PathLike
from typing import TypedDict

__version__: str

class OverflowmlError(Exception):
    """Anything that OverflowML refuses or fails at."""

    code: str
    """A stable name, such as `stream.read`."""
    hint: str | None
    """What can be changed about it."""

class Infeasible(OverflowmlError, MemoryError):
    """It does not fit; the message names the smallest budget that works."""

class ModelError(OverflowmlError, ValueError):
    """A model is missing, damaged or not supported."""

class ReadError(OverflowmlError, OSError):
    """Weights cannot be read."""

class ClosedError(OverflowmlError, ValueError):
    """The weights were closed."""

class ArgumentError(OverflowmlError, ValueError):
    """An argument is not understood."""

def main(args: Sequence[str]) -> int:
    """Runs the command in this process; `args` are those after the program's name. Returns the exit code."""

def detect() -> str:
    """The document of `overflowml detect --json`."""

def inspect(model: str) -> str:
    """The document of `overflowml inspect --json`."""

def plan(subject: str, options: str = "") -> str:
    """The document of `overflowml plan --json`; `options` is a JSON object of its flags, with `_` for `-`."""

def can_run(subject: str, options: str = "") -> str:
    """The document of `overflowml can-run --json`; `options` as for `plan`."""

def doctor(model: str | None = None) -> str:
    """The document of `overflowml doctor --json`."""

def download(model: str, progress: Callable[[int, int], object] | None = None) -> str:
    """The local path of a folder, file or hub id, downloaded if need be; `progress` gets bytes here and in all."""

def open_model(path: str | PathLike[str]) -> str:
    """The stored tensors of a folder or `.safetensors` file, by component, as a JSON document."""

def place(request: str) -> str:
    """Which blocks of a torch object stay where; request and answer are JSON text, see `overflowml.placement`."""

class Counters(TypedDict):
    """What a store has read, and the memory that it uses."""

    weights_read_bytes: int
    bytes_read: int
    reads: int
    most_reads_in_flight: int
    read_seconds: float
    acquired: int
    misses: int
    stall_seconds: float
    host_bytes: int
    host_peak_bytes: int
    resident_bytes: int
    bytes_per_pass: int
    weights_per_pass_bytes: int
    direct: bool
    buffered_because: str | None

class WeightStore:
    """Weights on disk, brought to memory by group: some stay, the others rotate through slots, read ahead of use."""

    def __init__(
        self,
        files: Sequence[str | PathLike[str]],
        groups: Sequence[Sequence[tuple[int, int, int]]],
        resident: Sequence[int],
        order: Sequence[int],
        slots: int,
        cyclic: bool = True,
        *,
        readers: int = 4,
        direct: bool = True,
    ) -> None:
        """Allocates what stays and the slots, and starts to read, without waiting for it.

        A group is a list of spans: index of the file, offset and length in bytes. `order` is one pass over the groups
        that rotate; each slot is as large as the largest of them. Groups that are neither resident nor in the order can
        be acquired, too: they have memory of their own while they are held.
        """

    def resident(self, group: int) -> Slab:
        """A group that stays; waits until it is read."""

    def acquire(self, group: int) -> Slab:
        """Waits until a group is in memory, and keeps it there until `release`."""

    def release(self, group: int) -> None:
        """Gives back what `acquire` gave: the memory may be used for another group."""

    def counters(self) -> Counters:
        """What was read so far, and what memory is in use."""

    def close(self) -> None:
        """Ends reading; slabs keep their memory. Closing twice is closing once."""

class Slab:
    """A group in memory: `torch.from_dlpack(slab)` is its bytes as a `uint8` tensor that keeps the memory alive.

    Between `acquire` and `release` the bytes are the group's; afterwards they may become another group's.
    """

    @property
    def address(self) -> int:
        """Where the memory begins, at a multiple of the page size."""

    @property
    def nbytes(self) -> int:
        """How many bytes, the sectors around the group's spans included."""

    def spans(self) -> list[tuple[int, int]]:
        """Offset in the slab and length of each span, in the order of the group."""

    def __len__(self) -> int: ...
    def __dlpack__(self, **request: object) -> object: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...
