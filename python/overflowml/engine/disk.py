"""Blocks on disk, and a model on the host that streams them: for weights larger than memory.

The Rust store reads: what stays once, the rest through slots, ahead of use, around and around. Here bytes become parameters
when a block starts and stop being parameters when it ends.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Sequence

import torch
from torch import nn

from .. import _native
from .block import Block
from .component import Component
from .hostdevice import HostDevice
from .recipe import FileTensor, Recipe
from .rows import RowTable
from .tensors import as_member

MERGE_GAP = 4096
"""Tensors closer together than this are read in one go: a read of a sector costs as much as one of its neighbours."""


@dataclass(frozen=True)
class Leaf:
    """Where one file tensor is: which span of the block, how far inside."""

    span: int
    offset: int
    source: FileTensor

    def view(self, slab: torch.Tensor, starts: Sequence[int]) -> torch.Tensor:
        first = starts[self.span] + self.offset
        run = slab[first : first + self.source.length]
        if (run.data_ptr() % self.source.dtype.itemsize) != 0:
            run = run.clone()
        return run.view(self.source.dtype).view(self.source.shape)


@dataclass
class DiskBlock:
    """A block whose tensors are made from file tensors when it is used."""

    block: Block
    recipes: list[Recipe]
    spans: list[tuple[int, int, int]] = field(default_factory=list)
    leaves: list[list[Leaf]] = field(default_factory=list)

    def __post_init__(self) -> None:
        sources = {source.name: source for recipe in self.recipes for source in recipe.sources}
        where: dict[str, Leaf] = {}
        for source in sorted(sources.values(), key=lambda s: (s.file, s.offset)):
            self._extend_spans(source)
            where[source.name] = Leaf(len(self.spans) - 1, source.offset - self.spans[-1][1], source)
        self.leaves = [[where[source.name] for source in recipe.sources] for recipe in self.recipes]

    def _extend_spans(self, source: FileTensor) -> None:
        end = source.offset + source.length
        if self.spans and self.spans[-1][0] == source.file and source.offset - sum(self.spans[-1][1:]) <= MERGE_GAP:
            file, first, length = self.spans[-1]
            self.spans[-1] = (file, first, max(first + length, end) - first)
        else:
            self.spans.append((source.file, source.offset, source.length))

    @property
    def placeholders(self) -> list[torch.Tensor]:
        """What the modules find while the block is not in memory."""
        return self.block.originals

    @property
    def nbytes(self) -> int:
        """What is read for the block."""
        return sum(length for _, _, length in self.spans)

    @property
    def made_bytes(self) -> int:
        """Memory for parameters that are computed from what was read, with what is needed on the way."""
        return 2 * sum(o.numel() * o.element_size() for o, r in zip(self.block.originals, self.recipes) if not r.is_plain())

    @property
    def kept_bytes(self) -> int:
        """Memory that the block takes while it stays."""
        return max(self.nbytes, sum(o.numel() * o.element_size() for o in self.block.originals)) if self.made_bytes else self.nbytes

    def tensors(self, slab: torch.Tensor, starts: Sequence[int]) -> list[torch.Tensor]:
        """The block's parameters, from a slab that holds its spans from `starts` on."""
        with torch.inference_mode(False), torch.no_grad():
            made = []
            for original, recipe, leaves in zip(self.block.originals, self.recipes, self.leaves):
                made.append(as_member(original, recipe.make([leaf.view(slab, starts) for leaf in leaves])))
            return made


def slab_tensors(block: DiskBlock, slab: Any) -> list[torch.Tensor]:
    """The parameters of `block` in the memory of one of the store's slabs."""
    return block.tensors(torch.from_dlpack(slab), [offset for offset, _ in slab.spans()])


class DiskStreamer(Component):
    """A module on the host whose weights are read from its files while it runs."""

    def __init__(
        self, name: str, root: nn.Module, fixed: DiskBlock, blocks: list[DiskBlock], files: list[str], resident: list[bool], slots: int,
        tables: list[RowTable] | None = None,
    ) -> None:
        super().__init__(name, root, [block.block for block in blocks], HostDevice())
        self.fixed, self.disk_blocks, self.files = fixed, blocks, files
        self.resident, self.slot_count, self.tables = resident, slots, tables or []
        self._store: Any = None
        self._order = self.streamed()
        self._counted: dict[str, float] = {}

    def streamed(self) -> list[int]:
        return [index for index, stays in enumerate(self.resident) if not stays]

    def block_bytes(self, index: int) -> int:
        return self.disk_blocks[index].nbytes

    def device_bytes(self) -> int:
        stay = sum(block.kept_bytes for block, stays in zip(self.disk_blocks, self.resident) if stays)
        largest = max((self.disk_blocks[index].nbytes for index in self.streamed()), default=0)
        return self.fixed.kept_bytes + stay + self.slot_count * largest

    def attach(self) -> None:
        super().attach()
        for table in self.tables:
            table.attach()

    def detach(self) -> None:
        for table in self.tables:
            table.detach()
        super().detach()

    def _activate(self) -> None:
        blocks = [*self.disk_blocks, self.fixed]
        always = [index for index, stays in enumerate([*self.resident, True]) if stays and blocks[index].spans]
        # What is computed from what was read stays as computed: the bytes it came from need not.
        stay = [index for index in always if not blocks[index].made_bytes]
        try:
            groups = [block.spans for block in blocks]
            self._store = _native.WeightStore(self.files, groups, stay, self._order, self.slot_count, cyclic=True)
            for index in always:
                if index in stay:
                    tensors = slab_tensors(blocks[index], self._store.resident(index))
                else:
                    tensors = _own(slab_tensors(blocks[index], self._store.acquire(index)), blocks[index])
                    self._store.release(index)
                blocks[index].block.put(tensors)
        except BaseException:
            self._deactivate()
            raise

    def _deactivate(self) -> None:
        for block in [self.fixed, *self.disk_blocks]:
            block.block.put(block.placeholders)
        if self._store is not None:
            self._counted = self.disk_counters()
            self._store.close()
            self._store = None

    def _begin_pass(self) -> None:
        seen = [index for index in self.last.order if not self.resident[index]]
        if seen and seen != self._order and set(seen) == set(self.streamed()):
            self._order = seen
            self.deactivate()
            self.ensure_active()

    def _enter(self, index: int) -> None:
        stalled = self._store.counters()["stall_seconds"]
        slab = self._store.acquire(index)
        block = self.disk_blocks[index]
        block.block.put(slab_tensors(block, slab))
        self._note_wait(index, self._store.counters()["stall_seconds"] - stalled)

    def _leave(self, index: int) -> None:
        self.disk_blocks[index].block.put(self.disk_blocks[index].placeholders)
        self._store.release(index)
        self._note_done(index)

    def disk_counters(self) -> dict[str, float]:
        now = dict(self._store.counters()) if self._store is not None else {}
        return {
            key: now.get(key, 0) + (self._counted.get(key, 0) if key in _SUMMED else 0)
            for key in {*now, *self._counted}
            if isinstance(now.get(key, 0), (int, float))
        }

    def send_back(self) -> None:
        self.deactivate()


def _own(tensors: list[torch.Tensor], block: DiskBlock) -> list[torch.Tensor]:
    """The tensors in memory of their own, where they are still views of a slab."""
    pairs = zip(tensors, block.recipes)
    return [as_member(tensor, tensor.data.clone()) if recipe.is_plain() else tensor for tensor, recipe in pairs]


_SUMMED = {"bytes_read", "weights_read_bytes", "reads", "read_seconds", "acquired", "misses", "stall_seconds"}
