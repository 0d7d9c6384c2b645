"""An embedding that stays on disk: a lookup reads the rows it needs, and nothing else."""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import nn

from .fileread import SpanReader
from .recipe import FileTensor, Recipe


class RowTable:
    """The weight of one embedding, read by row whenever the embedding is called.

    The embedding finds a table of just the rows that occur, and indices into that table: its own arithmetic is unchanged.
    """

    def __init__(self, module: nn.Embedding, recipe: Recipe, files: list[str]) -> None:
        self.module, self._recipe, self._reader = module, recipe, SpanReader(files)
        self._source: FileTensor = recipe.sources[0]
        self._row_bytes = self._source.length // self._source.shape[0]
        self._handles: list[Any] = []
        self._local = threading.local()

    @property
    def bytes_read(self) -> int:
        return self._reader.bytes_read

    @staticmethod
    def fits(module: nn.Module, recipe: Recipe | None) -> bool:
        """Whether an embedding's rows can be read one by one."""
        return (
            isinstance(module, nn.Embedding) and module.max_norm is None and recipe is not None
            and len(recipe.sources) == 1 and len(recipe.sources[0].shape) == 2
            and all("_to_copy" in str(step.function) or "alias" in str(step.function) for step in recipe.steps)
        )

    def attach(self) -> None:
        enter, leave = torch.compiler.disable(self._enter), torch.compiler.disable(self._leave)
        self._handles = [
            self.module.register_forward_pre_hook(enter, prepend=True),
            self.module.register_forward_hook(leave, always_call=True),
        ]

    def detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._reader.close()

    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        wanted, indices = torch.unique(args[0], return_inverse=True)
        table = self._recipe.make([self._rows(wanted.tolist())])
        self._local.before = (module._parameters["weight"], module.padding_idx)
        module._parameters["weight"] = nn.Parameter(table, requires_grad=False)
        # The padding row only matters to gradients, and its index means nothing in the small table.
        module.padding_idx = None  # type: ignore[assignment]
        return (indices, *args[1:])

    def _leave(self, module: nn.Module, _args: Any, _output: Any) -> None:
        before = self._local.__dict__.pop("before", None)
        if before is not None:
            module._parameters["weight"], module.padding_idx = before

    def _rows(self, wanted: list[int]) -> torch.Tensor:
        rows = torch.empty((len(wanted), self._source.shape[1]), dtype=self._source.dtype)
        into = memoryview(rows.view(torch.uint8).reshape(-1).numpy()) if wanted else memoryview(bytearray())
        for first, start, count in _runs(wanted):
            if start < 0 or start + count > self._source.shape[0]:
                raise IndexError(f"an index is outside the {self._source.shape[0]} rows of `{self._source.name}`")
            span = into[first * self._row_bytes : (first + count) * self._row_bytes]
            self._reader.read(span, self._source.file, self._source.offset + start * self._row_bytes)
        return rows


def _runs(sorted_rows: list[int]) -> list[tuple[int, int, int]]:
    """(position, first row, count) of each run of neighbouring rows."""
    runs: list[tuple[int, int, int]] = []
    for position, row in enumerate(sorted_rows):
        if runs and row == runs[-1][1] + runs[-1][2]:
            runs[-1] = (runs[-1][0], runs[-1][1], runs[-1][2] + 1)
        else:
            runs.append((position, row, 1))
    return runs
