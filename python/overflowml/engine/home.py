"""The host copy of a block: one slab, written once, to which the parameters point while the block is not in use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

import torch

from ..errors import InUse, refuse
from .block import Block, Piece
from .device import Device, host_slab


@dataclass
class Home:
    """One block's bytes in host memory, and the tensors that the modules find meanwhile."""

    block: Block
    slab: torch.Tensor
    tensors: list[torch.Tensor]
    came_from: list[torch.device]
    pinned: bool = False

    def put(self) -> None:
        self.block.put(self.tensors)

    def version(self) -> int:
        """Grows whenever someone writes to the parameters in place."""
        return sum(tensor._version for tensor in self.tensors)

    def accept_changes(self) -> bool:
        """Takes over parameters that someone has put in the place of ours; whether there were any.

        Raises:
            InUse: one of another shape or dtype: the block would have to be laid out anew.
        """
        if self.block.holds(self.tensors):
            return False
        for member in self.block.members:
            theirs, ours = member.store.get(member.key), self.tensors[member.tensor]
            if theirs is ours:
                continue
            if theirs is None or theirs.shape != ours.shape or theirs.dtype != ours.dtype or type(theirs.data) is not torch.Tensor:
                raise refuse(
                    InUse, "python.in-use", f"`{member.name}` was replaced by something of another kind while optimised",
                    "call overflowml.restore(obj) first, change it, and optimise again",
                )
            self.take_in(member.tensor, theirs)
            theirs.data = ours.data
            self.tensors[member.tensor] = theirs
        self.put()
        return True

    def take_in(self, index: int, values: torch.Tensor) -> None:
        """Writes changed values to the host copy."""
        with torch.inference_mode(False), torch.no_grad():
            self.tensors[index].data.copy_(values.data)


def settle(block: Block, pieces: Sequence[Piece], pin_for: Device | None = None) -> Home:
    """Moves the bytes of `block` into a slab of host memory; the memory they came from is free afterwards.

    Parameters keep their identity: only what they point to changes. The slab is registered with `pin_for` first, if
    given, because a copy from a device to registered memory is several times as fast.
    """
    slab = host_slab(block.nbytes)
    pinned = pin_for is not None and bool(block.nbytes) and pin_for.pin(slab)
    with torch.inference_mode(False), torch.no_grad():
        for piece in pieces:
            slab[piece.offset : piece.offset + piece.source.numel()].copy_(piece.source)
        came_from = [original.device for original in block.originals]
        views = block.tensors_in(slab)
        tensors = [_repoint(original, view) for original, view in zip(block.originals, views)]
    block.parts = [parts.forget() for parts in block.parts]
    home = Home(block, slab, tensors, came_from, pinned)
    home.put()
    return home


def _repoint(original: torch.Tensor, view: torch.Tensor) -> torch.Tensor:
    """`original` itself, now pointing to `view`; `view` where an object cannot be given other memory."""
    if type(original.data) is torch.Tensor and type(view.data) is torch.Tensor and not original.is_inference():
        original.data = view.data
        return original
    return view


def pin(home: Home, device: Device) -> bool:
    """Registers the slab for copies beside the host, if the system lets us."""
    if not home.pinned and home.slab.numel():
        home.pinned = device.pin(home.slab)
    return home.pinned


def send_back(home: Home, device: Device | None) -> None:
    """Undoes `settle`: parameters go back to where they were, no longer registered."""
    if home.pinned and device is not None:
        device.unpin(home.slab)
        home.pinned = False
    home.put()
    with torch.inference_mode(False), torch.no_grad():
        for tensor, where in zip(home.tensors, home.came_from):
            if where.type not in ("cpu", "meta") and type(tensor.data) is torch.Tensor:
                tensor.data = tensor.data.to(where)
