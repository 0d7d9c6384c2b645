"""A model without weights, and where each comes from."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from .. import _native
from ..engine.recipe import FileTensor, Recipe
from ..errors import ModelError, refuse

_DTYPES = {
    "bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32, "f64": torch.float64, "bool": torch.bool, "u8": torch.uint8,
    "i8": torch.int8, "i16": torch.int16, "u16": torch.uint16, "i32": torch.int32, "u32": torch.uint32, "i64": torch.int64,
    "u64": torch.uint64, "f8_e4m3": torch.float8_e4m3fn, "f8_e5m2": torch.float8_e5m2,
}


@dataclass
class Stored:
    """The files of one component and the tensors in them."""

    files: list[str]
    tensors: dict[str, FileTensor]

    @property
    def nbytes(self) -> int:
        return sum(tensor.length for tensor in self.tensors.values())


@dataclass
class Skeleton:
    """A torch module whose parameters have no data, with the recipe of each."""

    name: str
    root: nn.Module
    files: list[str]
    recipes: dict[int, Recipe]
    """By the identity of the parameter or buffer in `root`."""
    kept: list[torch.Tensor] = field(default_factory=list)

    def check_complete(self) -> None:
        """Every tensor without data has a recipe.

        Raises:
            ModelError: naming those that have none.
        """
        members = [*self.root.named_parameters(), *self.root.named_buffers()]
        missing = [name for name, tensor in members if tensor.device.type == "meta" and id(tensor) not in self.recipes]
        if missing:
            shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise refuse(
                ModelError, "python.missing-weights", f"the files have no weights for {shown} of {type(self.root).__name__}",
                "check that the folder is complete and belongs to this class",
            )


def read_headers(path: str) -> dict[str, Stored]:
    """The stored tensors of a folder, by component; a model that is no pipeline has one component without a name.

    Raises:
        ModelError: files are missing or damaged.
    """
    document = json.loads(_native.open_model(path))
    return {component["name"]: _stored(component) for component in document["components"]}


def _stored(component: dict[str, Any]) -> Stored:
    tensors = {}
    for row in component["tensors"]:
        dtype = _DTYPES.get(row["dtype"])
        if dtype is None:
            raise refuse(ModelError, "python.unsupported-dtype", f"`{row['name']}` is stored as {row['dtype']}, which torch cannot hold")
        tensors[row["name"]] = FileTensor(row["name"], row["file"], row["offset"], row["length"], dtype, tuple(row["shape"]))
    return Stored([str(file) for file in component["files"]], tensors)


def stored_dtype(stored: Stored) -> torch.dtype:
    """The floating-point dtype that most bytes are stored in."""
    sizes: dict[torch.dtype, int] = {}
    for tensor in stored.tensors.values():
        if tensor.dtype.is_floating_point:
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.length
    return max(sizes, key=lambda dtype: sizes[dtype], default=torch.float32)
