"""Finds what repeats in a module: the layers of a decoder, the blocks of a denoiser.

Only modules that are *called* can be moved, because a call is when their weights are needed. Containers never are
called; a module with parameters of its own may use those of its children without calling them, so it is never cut.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Callable

import torch
from torch import nn

from .block import Block, Piece, lay_out
from .tensors import Unsupported, byte_range, member_names, take_apart

_LISTS = (nn.ModuleList, nn.Sequential, nn.ModuleDict)
_LEAVES = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_LEAF_SHARE = 8
"""A single layer outside the stacks is a block of its own if it is at least one such part of the model."""


@dataclass
class Stack:
    """Blocks that run one after the other."""

    name: str
    blocks: list[Block] = field(default_factory=list)


@dataclass
class Anatomy:
    """A module, cut: its stacks, and the rest, which stays on the device while the module is used."""

    root: nn.Module
    stacks: list[Stack]
    fixed: Block
    pieces: dict[str, list[Piece]]
    unmovable: list[nn.Module]
    notes: list[str]

    def blocks(self) -> list[Block]:
        return [block for stack in self.stacks for block in stack.blocks]


def module_bytes(module: nn.Module) -> int:
    """Bytes of the distinct parameters and buffers below `module`."""
    distinct = {id(store[key]): store[key] for _, _, key, store in member_names(module)}
    return sum(_stored_bytes(tensor) for tensor in distinct.values())


def _stored_bytes(tensor: torch.Tensor) -> int:
    """What a tensor takes in memory; a quantised one is as large as its parts."""
    try:
        return sum(plain.numel() * plain.element_size() for plain in take_apart(tensor, "").plain)
    except Unsupported:
        return tensor.numel() * tensor.element_size()


Elsewhere = Callable[[nn.Module, torch.Tensor], bool]
"""Whether a module's tensor is taken care of in another way, and belongs to no block."""


def _nothing(_module: nn.Module, _tensor: torch.Tensor) -> bool:
    return False


def dissect(root: nn.Module, largest: int | None = None, elsewhere: Elsewhere = _nothing) -> Anatomy:
    """Cuts `root` into stacks of blocks; a block above `largest` bytes is cut further where it can be."""
    total = module_bytes(root)
    largest = largest if largest is not None else max(total // 8, 1)
    units = _units(root, "", largest, max(total // _LEAF_SHARE, 1))
    shared = _shared_tensors(root, [unit for _, _, unit in units], elsewhere)
    anatomy = Anatomy(root, [], Block("", root), {}, [], [])
    for stack_name, name, unit in units:
        _add_block(anatomy, stack_name, name, unit, shared, elsewhere)
    _add_fixed(anatomy, elsewhere)
    return anatomy


def _units(module: nn.Module, path: str, largest: int, smallest: int) -> list[tuple[str, str, nn.Module]]:
    """(stack, name, module) of what may be moved on its own below `module`, in the order of definition.

    Single layers outside lists count from `smallest` bytes.
    """
    found: list[tuple[str, str, nn.Module]] = []
    for name, child in module.named_children():
        where = f"{path}.{name}" if path else name
        if isinstance(child, _LISTS):
            found += _units_of_list(child, where, largest)
        elif isinstance(child, _LEAVES):
            if not _has_own_parameters(module) and module_bytes(child) >= smallest:
                found.append((where, where, child))
        elif not _has_own_parameters(child):
            found += _units(child, where, largest, smallest)
    return found


def _units_of_list(stack: nn.Module, where: str, largest: int) -> list[tuple[str, str, nn.Module]]:
    found: list[tuple[str, str, nn.Module]] = []
    for name, element in stack.named_children():
        path = f"{where}.{name}"
        nbytes = module_bytes(element)
        if isinstance(element, _LISTS):
            found += _units_of_list(element, path, largest)
        elif nbytes > largest and (inner := _parts_of_block(element, path, nbytes, largest)):
            found += inner
        elif nbytes:
            found.append((where, path, element))
    return found


def _parts_of_block(block: nn.Module, path: str, nbytes: int, largest: int) -> list[tuple[str, str, nn.Module]]:
    """Smaller units that together are nearly all of a large block; nothing if there are none such."""
    if _has_own_parameters(block):
        return []
    parts = _units(block, path, largest, max(nbytes // 64, 1))
    covered = sum(module_bytes(part) for _, _, part in parts)
    return [(path, name, part) for _, name, part in parts] if covered * 10 >= nbytes * 9 else []


def _has_own_parameters(module: nn.Module) -> bool:
    return any(parameter is not None for parameter in module._parameters.values())


def _shared_tensors(root: nn.Module, units: list[nn.Module], elsewhere: Elsewhere) -> set[int]:
    """Tensors (by identity) whose memory more than one unit, or a unit and the rest, can see."""
    owner: dict[int, int] = {}
    for index, unit in enumerate(units):
        for part in unit.modules():
            owner.setdefault(id(part), index)
    users: dict[tuple[int, int], set[int]] = {}
    tensors: dict[tuple[int, int], set[int]] = {}
    for name, module, key, store in member_names(root):
        if elsewhere(module, store[key]):
            continue
        for place in _places(store[key], name):
            users.setdefault(place, set()).add(owner.get(id(module), -1))
            tensors.setdefault(place, set()).add(id(store[key]))
    repeated = {index for index in range(len(units)) if sum(units[index] is other for other in units) > 1}
    shared = {t for place, who in users.items() if len(who) > 1 for t in tensors[place]}
    for index in repeated:
        shared.update(id(store[key]) for _, _, key, store in member_names(units[index]))
    return shared


def _places(tensor: object, name: str) -> list[tuple[int, int]]:
    try:
        plain = take_apart(tensor, name).plain  # type: ignore[arg-type]
    except Unsupported:
        return [(0, id(tensor))]
    # Memory is shared by views that start at the same byte; other overlaps are joined inside a block only.
    return [byte_range(t)[:2] if t.device.type != "meta" else (0, id(tensor)) for t in plain if t.numel()]


def _add_block(anatomy: Anatomy, stack_name: str, name: str, unit: nn.Module, shared: set[int], elsewhere: Elsewhere) -> None:
    members = [entry for entry in member_names(unit) if not elsewhere(entry[1], entry[3][entry[2]])]
    mine = [entry for entry in members if id(entry[3][entry[2]]) not in shared]
    try:
        block, pieces = lay_out(name, unit, [(f"{name}.{path}", owner, key, store) for path, owner, key, store in mine])
    except Unsupported as reason:
        anatomy.unmovable.append(unit)
        anatomy.notes.append(f"{reason}: block `{name}` stays on the device")
        return
    if not block.nbytes:
        return
    if not anatomy.stacks or anatomy.stacks[-1].name != stack_name:
        anatomy.stacks.append(Stack(stack_name))
    anatomy.stacks[-1].blocks.append(block)
    anatomy.pieces[name] = pieces


def _add_fixed(anatomy: Anatomy, elsewhere: Elsewhere) -> None:
    """Everything that is in no block; tensors that blocks share with it too."""
    in_blocks = {(id(m.store), m.key) for block in anatomy.blocks() for m in block.members}
    unmovable = {id(part) for unit in anatomy.unmovable for part in unit.modules()}
    rest = []
    for entry in member_names(anatomy.root):
        _, module, key, store = entry
        if (id(store), key) in in_blocks or id(module) in unmovable or elsewhere(module, store[key]):
            continue
        try:
            take_apart(store[key], entry[0])
            rest.append(entry)
        except Unsupported as reason:
            anatomy.unmovable.append(module)
            anatomy.notes.append(f"{reason}: it stays on the device")
    anatomy.fixed, anatomy.pieces[""] = lay_out("", anatomy.root, rest)

