"""Places a skeleton: on the host with its weights on disk, or on a device with its weights at home in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from ..engine.activations import estimate_activations
from ..engine.block import Block
from ..engine.disk import DiskBlock, DiskStreamer
from ..engine.fileread import SpanReader
from ..engine.rows import RowTable
from ..engine.stacks import Anatomy, dissect
from ..engine.takeover import Wish, dtype_word
from ..engine.tensors import as_member
from ..placement import ComponentPlacement, ComponentRequest, Placement, PlacementRequest, StackRequest, place
from .skeleton import Skeleton


@dataclass
class DiskSubject:
    """One skeleton to be placed on the host."""

    skeleton: Skeleton
    kind: str
    anatomy: Anatomy
    fixed: DiskBlock
    blocks: list[DiskBlock]
    tables: list[RowTable]
    activation_bytes: int

    def request(self) -> ComponentRequest:
        counted = iter(self.blocks)
        stacks = [StackRequest(stack.name, [next(counted).kept_bytes for _ in stack.blocks]) for stack in self.anatomy.stacks]
        made = max((block.made_bytes for block in [*self.blocks, self.fixed]), default=0)
        name, root = self.skeleton.name, self.skeleton.root
        return ComponentRequest(name, self.kind, "disk", dtype_word(root), self.fixed.kept_bytes, self.activation_bytes + made, stacks)


def examine_on_disk(skeleton: Skeleton, kind: str, wish: Wish, fits: bool) -> DiskSubject:
    """Cuts a skeleton; embeddings are read by row unless everything `fits`."""
    _read_what_is_always_wanted(skeleton)
    tables = [] if fits else _row_tables(skeleton)
    by_row = {id(table.module) for table in tables}
    budget = None if fits else wish.ram
    total = sum(source.length for recipe in skeleton.recipes.values() for source in recipe.sources)
    largest = max(min(total, budget if budget is not None else total) // 8, 1)

    def elsewhere(module: nn.Module, tensor: Any) -> bool:
        return tensor.device.type != "meta" or id(module) in by_row

    anatomy = dissect(skeleton.root, largest, elsewhere)
    blocks = [_disk_block(block, skeleton) for block in anatomy.blocks()]
    activations = wish.activations if wish.activations is not None else estimate_activations(skeleton.root, kind)
    return DiskSubject(skeleton, kind, anatomy, _disk_block(anatomy.fixed, skeleton), blocks, tables, activations)


_ALWAYS = 1 << 20
"""Parameters of the model itself, up to so many bytes, are in memory all the time: pipelines look at them from outside."""


def _read_what_is_always_wanted(skeleton: Skeleton) -> None:
    """Reads buffers, and small parameters that belong to no layer, once and for all."""
    reader = SpanReader(skeleton.files)
    try:
        for module in skeleton.root.modules():
            for store in (module._buffers, module._parameters if module is skeleton.root else {}):
                for key, tensor in store.items():
                    recipe = skeleton.recipes.get(id(tensor)) if tensor is not None else None
                    if tensor is not None and recipe is not None and tensor.numel() * tensor.element_size() <= _ALWAYS:
                        store[key] = as_member(tensor, reader.make(recipe))
    finally:
        reader.close()


def _row_tables(skeleton: Skeleton) -> list[RowTable]:
    tables = []
    for module in skeleton.root.modules():
        weight = module._parameters.get("weight")
        recipe = skeleton.recipes.get(id(weight)) if weight is not None else None
        if recipe is not None and RowTable.fits(module, recipe) and recipe.sources[0].shape[0] >= 1024:
            tables.append(RowTable(module, recipe, skeleton.files))  # type: ignore[arg-type]
    return tables


def _disk_block(block: Block, skeleton: Skeleton) -> DiskBlock:
    return DiskBlock(block, [skeleton.recipes[id(original)] for original in block.originals])


def decide_on_host(subjects: list[DiskSubject], wish: Wish) -> Placement:
    """The planner's answer for models that stay on disk."""
    requests = [subject.request() for subject in subjects]
    return place(PlacementRequest({"kind": "cpu"}, requests, None, wish.ram, wish.task, wish.steps, wish.allow))


def stream_from_disk(subject: DiskSubject, decided: ComponentPlacement) -> DiskStreamer:
    """Starts managing one model on the host."""
    flags = decided.flags() if decided.mode == "stream" else [True] * len(subject.blocks)
    component = DiskStreamer(
        subject.skeleton.name, subject.skeleton.root, subject.fixed, subject.blocks, subject.skeleton.files, flags, decided.slots,
        subject.tables,
    )
    component.activation_bytes = subject.activation_bytes
    return component
