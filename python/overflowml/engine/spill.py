"""A module that is in memory already, but may not stay there: its blocks go to a temporary file, laid out as slabs."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Sequence

import torch
from torch import nn

from .block import Block, Piece
from .device import host_slab
from .disk import DiskStreamer
from .fileread import SpanReader
from .stacks import Anatomy
from .tensors import align, as_member

_PAGE = 4096


@dataclass
class SpilledBlock:
    """A block as one span of the temporary file."""

    block: Block
    placeholders: list[torch.Tensor]
    spans: list[tuple[int, int, int]]
    made_bytes: int = 0
    recipes: list[Any] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        return self.block.nbytes

    @property
    def kept_bytes(self) -> int:
        return self.block.nbytes

    def tensors(self, slab: torch.Tensor, starts: Sequence[int]) -> list[torch.Tensor]:
        return self.block.tensors_in(slab[starts[0] :]) if self.spans else []


class Spill:
    """The temporary file. Deleted when closed, or with the process."""

    def __init__(self, folder: str | None = None) -> None:
        handle, self.path = tempfile.mkstemp(prefix="overflowml-", suffix=".weights", dir=folder)
        self._file: BinaryIO = os.fdopen(handle, "wb")
        self._end = 0

    def add(self, block: Block, pieces: Sequence[Piece]) -> SpilledBlock:
        """Writes a block and empties its parameters, which keep their identity."""
        slab = host_slab(block.nbytes)
        with torch.inference_mode(False), torch.no_grad():
            for piece in pieces:
                slab[piece.offset : piece.offset + piece.source.numel()].copy_(piece.source)
            placeholders = [as_member(o, torch.empty_like(o.data, device="meta")) for o in block.originals]
            if block.nbytes:
                self._file.seek(self._end)
                self._file.write(memoryview(slab.numpy()))
            for original in block.originals:
                original.data = torch.empty(0, dtype=original.dtype)
        block.parts = [parts.forget() for parts in block.parts]
        spans = [(0, self._end, block.nbytes)] if block.nbytes else []
        self._end = align(self._end + block.nbytes, _PAGE)
        spilled = SpilledBlock(block, placeholders, spans)
        block.put(placeholders)
        return spilled

    def finish(self) -> None:
        """All blocks are written."""
        self._file.truncate(self._end)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def bring_back(self, blocks: Sequence[SpilledBlock]) -> None:
        """Reads every block into memory again, into the original parameters, and deletes the file."""
        reader = SpanReader([self.path])
        try:
            for spilled in blocks:
                self._bring_back(spilled, reader)
        finally:
            reader.close()
        self.delete()

    def _bring_back(self, spilled: SpilledBlock, reader: SpanReader) -> None:
        block = spilled.block
        if spilled.spans:
            slab = host_slab(block.nbytes)
            reader.read(memoryview(slab.numpy()), 0, spilled.spans[0][1])
            with torch.inference_mode(False), torch.no_grad():
                for original, tensor in zip(block.originals, block.tensors_in(slab)):
                    original.data = tensor.data
        block.put(block.originals)

    def delete(self) -> None:
        if os.path.exists(self.path):
            os.unlink(self.path)


class SpilledStreamer(DiskStreamer):
    """A `DiskStreamer` whose file is its own, and whose weights come back to memory in the end."""

    def __init__(self, name: str, root: nn.Module, anatomy: Anatomy, spill: Spill, resident: list[bool], slots: int) -> None:
        self._spill = spill
        fixed = spill.add(anatomy.fixed, anatomy.pieces.pop(""))
        blocks = [spill.add(block, anatomy.pieces.pop(block.name)) for block in anatomy.blocks()]
        spill.finish()
        super().__init__(name, root, fixed, blocks, [spill.path], resident, slots)  # type: ignore[arg-type]
        self._spilled = [fixed, *blocks]

    def send_back(self) -> None:
        super().send_back()
        self._spill.bring_back(self._spilled)
