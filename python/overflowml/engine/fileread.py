"""Small reads of exact spans, for what is too little to stream."""

from __future__ import annotations

import os

import torch

from ..errors import ReadError, refuse
from .recipe import FileTensor, Recipe


class SpanReader:
    """Reads spans of a model's files, completely or not at all. May be used from several threads."""

    def __init__(self, files: list[str]) -> None:
        self._files = files
        self._open: dict[int, int] = {}
        self.bytes_read = 0

    def read(self, into: memoryview, file: int, offset: int) -> None:
        """Fills `into` from `offset` on.

        Raises:
            ReadError: the file cannot be read or ends too early.
        """
        try:
            if file not in self._open:
                self._open[file] = os.open(self._files[file], os.O_RDONLY | getattr(os, "O_BINARY", 0))
            done = 0
            while done < len(into):
                count = _read_at(self._open[file], into[done:], offset + done)
                if not count:
                    raise refuse(ReadError, "python.short-read", f"{self._files[file]} ends at byte {offset + done}, inside a tensor")
                done += count
        except OSError as error:
            if isinstance(error, ReadError):
                raise
            raise refuse(ReadError, "python.read", f"{self._files[file]}: {error.strerror or error}") from error
        self.bytes_read += len(into)

    def tensor(self, source: FileTensor) -> torch.Tensor:
        """One whole tensor."""
        memory = torch.empty(source.length, dtype=torch.uint8)
        if source.length:
            self.read(memoryview(memory.numpy()), source.file, source.offset)
        return memory.view(source.dtype).view(source.shape)

    def make(self, recipe: Recipe) -> torch.Tensor:
        """What a recipe makes of tensors read now."""
        return recipe.make([self.tensor(source) for source in recipe.sources])

    def close(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open = {}


def _read_at(descriptor: int, into: memoryview, offset: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [into], offset)
    if hasattr(os, "pread"):
        data = os.pread(descriptor, len(into), offset)
    else:
        os.lseek(descriptor, offset, os.SEEK_SET)
        data = os.read(descriptor, len(into))
    into[: len(data)] = data
    return len(data)
