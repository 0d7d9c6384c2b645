"""`auto_batch`: batches as large as the memory left allows, smaller ones when it runs out. No item is lost, order is kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Callable, Iterator, Sequence, TypeVar

if TYPE_CHECKING:
    from .engine.device import Device

T = TypeVar("T")

SAFETY = 0.85
"""Share of the free memory that a batch is planned to take."""


@dataclass
class BatchReport:
    """How items were grouped."""

    sizes: list[int] = field(default_factory=list)
    retries: int = 0
    bytes_per_item: int = 0


def auto_batch(
    items: Sequence[T],
    pipe: Callable[[list[T]], Any],
    *,
    max_batch: int = 64,
    device: Device | None = None,
    report: BatchReport | None = None,
) -> Iterator[Any]:
    """Calls ``pipe(list of items)`` on as many items at a time as fit, and yields its results in order.

    The first item runs alone and is measured. When memory runs out, the batch is halved and tried again; a single item
    that does not fit raises what the device raised. A result with ``images``, or any sequence as long as the batch, is taken
    apart and yielded item by item; anything else is yielded as it is, once per batch.

    Args:
        max_batch: the largest batch.
        device: by default the accelerator; without one, batches simply grow to `max_batch`.
        report: filled with what was done.

    Example:
        >>> for image in auto_batch(prompts, lambda batch: pipe(batch).images):
        ...     image.save(...)
    """
    if max_batch < 1:
        raise ValueError(f"max_batch has to be at least 1, not {max_batch}")
    report = report if report is not None else BatchReport()
    meter = _Meter(device)
    position, size = 0, 1
    while position < len(items):
        batch = list(items[position : position + size])
        try:
            result = meter.run(pipe, batch)
        except Exception as error:
            if len(batch) == 1 or not is_out_of_memory(error):
                raise
            size = max(1, len(batch) // 2)
            max_batch = min(max_batch, size)
            report.retries += 1
            result = None
        if result is None:
            # Outside the handler: while it runs, the traceback holds on to the batch that did not fit.
            meter.recover()
            continue
        position += len(batch)
        report.sizes.append(len(batch))
        report.bytes_per_item = meter.bytes_per_item
        size = meter.next_size(size, max_batch)
        yield from _split(result[0], len(batch))


class _Meter:
    """Measures what an item takes."""

    def __init__(self, device: Device | None) -> None:
        if device is None:
            from .engine.device import accelerator

            device = accelerator()
        self._device = device
        self.bytes_per_item = 0

    def run(self, pipe: Callable[[list[T]], Any], batch: list[T]) -> tuple[Any]:
        if self._device is None:
            return (pipe(batch),)
        before = self._device.allocated()
        self._device.reset_peak()
        result = pipe(batch)
        used = max(0, self._device.peak() - before)
        self.bytes_per_item = max(self.bytes_per_item, used // len(batch))
        return (result,)

    def next_size(self, size: int, most: int) -> int:
        if self._device is None or not self.bytes_per_item:
            return min(size * 2, most)
        fits = int(self._device.free_bytes() * SAFETY) // self.bytes_per_item
        return max(1, min(fits, most))

    def recover(self) -> None:
        if self._device is not None:
            import gc

            gc.collect()
            self._device.release_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that a device, or the host, had no memory left."""
    import torch

    text = str(error).lower()
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
    )


def _split(result: Any, count: int) -> Iterator[Any]:
    for name in ("images", "frames"):
        inner = getattr(result, name, None)
        if inner is not None and len(inner) == count:
            result = inner
            break
    if not isinstance(result, (str, bytes, dict)) and hasattr(result, "__len__") and len(result) == count:
        yield from result
    else:
        yield result
