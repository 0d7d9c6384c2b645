"""A block: the parameters and buffers that move together, and the slab of bytes they are laid out in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Iterable, Sequence

import torch
from torch import nn

from .codec import eligible, encode
from .tensors import Parts, Span, align, as_member, byte_range, raw_bytes, take_apart


@dataclass
class Member:
    """One place where a module looks for one of its tensors."""

    name: str
    module: nn.Module
    key: str
    store: dict[str, Any]
    tensor: int
    """Which of the block's tensors belongs here; two members may share one."""

    def put(self, value: torch.Tensor) -> None:
        self.store[self.key] = value


@dataclass
class Piece:
    """A run of bytes of one storage, laid into the slab in one copy."""

    source: torch.Tensor
    offset: int


@dataclass
class Block:
    """The members below one module and where their bytes are in a slab of `nbytes`."""

    name: str
    module: nn.Module
    members: list[Member] = field(default_factory=list)
    originals: list[torch.Tensor] = field(default_factory=list)
    parts: list[Parts] = field(default_factory=list)
    spans: list[list[Span]] = field(default_factory=list)
    encoded: list[bool] = field(default_factory=list)
    """Which of the tensors are computed from what the slab holds, each time they are used."""
    nbytes: int = 0

    @property
    def decodes(self) -> bool:
        return any(self.encoded)

    def tensors_in(self, slab: torch.Tensor) -> list[torch.Tensor]:
        """The block's tensors as views of `slab`, ready to be put in place."""
        with torch.inference_mode(False), torch.no_grad():
            return [
                as_member(original, parts.rebuild([span.view(slab) for span in spans]))
                for original, parts, spans in zip(self.originals, self.parts, self.spans)
            ]

    def put(self, tensors: Sequence[torch.Tensor]) -> None:
        """Makes the modules find `tensors`."""
        for member in self.members:
            member.store[member.key] = tensors[member.tensor]

    def holds(self, tensors: Sequence[torch.Tensor]) -> bool:
        """Whether the modules still find `tensors`: false once someone replaced a parameter."""
        return all(member.store.get(member.key) is tensors[member.tensor] for member in self.members)


def lay_out(
    name: str, module: nn.Module, members: Iterable[tuple[str, nn.Module, str, dict[str, Any]]], precision: str = "exact"
) -> tuple[Block, list[Piece]]:
    """The block of `members`, and what has to be copied where to fill a slab of it, in `precision`.

    Raises:
        Unsupported: a tensor whose bytes cannot be moved.
    """
    block = Block(name, module)
    known: dict[int, int] = {}
    for full_name, owner, key, store in members:
        tensor = store[key]
        if id(tensor) not in known:
            known[id(tensor)] = len(block.originals)
            rounded = precision != "exact" and eligible(owner, tensor)
            block.parts.append(encode(tensor, precision) if rounded else take_apart(tensor, full_name))
            block.encoded.append(rounded)
            block.originals.append(tensor)
        block.members.append(Member(full_name, owner, key, store, known[id(tensor)]))
    return block, _assign_offsets(block)


def rounded(block: Block, precision: str) -> tuple[Block, list[Piece]]:
    """The same block, laid out anew in `precision`."""
    members = [(member.name, member.module, member.key, member.store) for member in block.members]
    return lay_out(block.name, block.module, members, precision)


def _assign_offsets(block: Block) -> list[Piece]:
    """Gives every plain tensor its span; ranges of one storage that overlap stay together."""
    plain = [tensor for parts in block.parts for tensor in parts.plain]
    pieces: list[Piece] = []
    placed: dict[tuple[int, int, int], int] = {}
    for storage, first, end, ranges in _merged(plain):
        tensor = ranges[0][1]
        # A view starts as far from an aligned address as it did in its storage.
        offset = align(block.nbytes) + first % ALIGNED_TO
        pieces.append(Piece(raw_bytes(tensor, first, end), offset))
        for range_, _ in ranges:
            placed[range_] = offset + range_[1] - first
        block.nbytes = offset + end - first
    block.nbytes = align(block.nbytes)
    for parts in block.parts:
        block.spans.append([_span(tensor, placed) for tensor in parts.plain])
    return pieces


ALIGNED_TO = 16
"""Views keep their offset from this alignment, so that vector loads see what they saw before."""


def _merged(tensors: Sequence[torch.Tensor]) -> list[tuple[int, int, int, list[Any]]]:
    """The byte ranges of `tensors`, overlapping ones joined."""
    ranges = sorted(((byte_range(t), t) for t in tensors if t.numel()), key=lambda pair: pair[0])
    merged: list[tuple[int, int, int, list[Any]]] = []
    for range_, tensor in ranges:
        storage, first, end = range_
        if merged and merged[-1][0] == storage and first < merged[-1][2]:
            joined = merged.pop()
            merged.append((storage, joined[1], max(end, joined[2]), [*joined[3], (range_, tensor)]))
        else:
            merged.append((storage, first, end, [(range_, tensor)]))
    # In the order of the module, not of memory: a slab reads like the model.
    order = {id(tensor): index for index, tensor in enumerate(tensors)}
    return sorted(merged, key=lambda entry: order[id(entry[3][0][1])])


def _span(tensor: torch.Tensor, placed: dict[tuple[int, int, int], int]) -> Span:
    offset = placed[byte_range(tensor)] if tensor.numel() else 0
    return Span(offset, tensor.dtype, tuple(tensor.shape), tuple(tensor.stride()))
