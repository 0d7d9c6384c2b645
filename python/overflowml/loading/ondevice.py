"""Skeletons for a device: weights are read from the files straight into their homes in host memory."""

from __future__ import annotations

from typing import Any

import torch

from .. import _native
from ..engine.adapt import adapt_residency
from ..engine.block import Block
from ..engine.device import Device, host_slab
from ..engine.disk import DiskBlock, slab_tensors
from ..engine.home import Home
from ..engine.manager import Manager
from ..engine.streamer import Streamer
from ..engine.takeover import Subject, Wish, budget_of, examine, question
from ..engine.tensors import take_apart
from ..optimize import finish_owner
from ..placement import place
from ..progress import Progress
from ..strategy import Strategy, strategy_of
from .skeleton import Skeleton


def place_on_device(owner: Any, skeletons: list[tuple[Skeleton, str]], wish: Wish, device: Device) -> Strategy:
    """Decides about, and starts managing, models whose weights are on disk and that compute on `device`."""
    subjects = [(skeleton, examine(skeleton.name, skeleton.root, kind, wish)) for skeleton, kind in skeletons]
    request = question([subject for _, subject in subjects], device, wish)
    placement = place(request)
    manager = Manager(device, placement=placement, request=request, budget_bytes=budget_of(request))
    total = sum(s.anatomy.fixed.nbytes + sum(b.nbytes for b in s.anatomy.blocks()) for _, s in subjects)
    try:
        with Progress(total, "reading weights", wish.progress) as progress:
            for skeleton, subject in subjects:
                component = _read_home(skeleton, subject, placement.of(subject.name), device, progress)
                component.activation_bytes = subject.activation_bytes
                component.before_activation = manager.make_room
                manager.components.append(component)
                manager.undo += [component.send_back, component.detach]
                component.attach()
    except BaseException:
        manager.restore()
        raise
    adapt_residency(manager)
    strategy = strategy_of(placement, _manager=manager)
    finish_owner(owner, manager, strategy)
    return strategy


def _read_home(skeleton: Skeleton, subject: Subject, decided: Any, device: Device, progress: Progress) -> Streamer:
    anatomy = subject.anatomy
    blocks = [anatomy.fixed, *anatomy.blocks()]
    stored = [_from_files(block, skeleton) for block in blocks]
    order = [index for index, block in enumerate(stored) if block.spans]
    store = _native.WeightStore(skeleton.files, [block.spans for block in stored], [], order, min(2, len(order)), cyclic=False)
    flags = [True, *(decided.flags() if decided.mode == "stream" else [True] * (len(blocks) - 1))]
    travels = decided.mode == "component"
    homes = []
    try:
        for index, (block, from_files, stays) in enumerate(zip(blocks, stored, flags)):
            read = slab_tensors(from_files, store.acquire(index)) if from_files.spans else []
            homes.append(_home(block, from_files, read, device if travels or not stays else None))
            del read
            if from_files.spans:
                store.release(index)
            progress.advance(block.nbytes)
    finally:
        store.close()
    streamer = Streamer(subject.name, subject.module, homes[0], homes[1:], device, flags[1:], decided.slots, anatomy.unmovable)
    streamer.stats.host_copied_bytes = sum(home.slab.numel() for home in homes)
    streamer.pin_all = travels
    streamer.stays = decided.mode == "resident"
    streamer.pin()
    return streamer


def _from_files(block: Block, skeleton: Skeleton) -> DiskBlock:
    """The part of a block that is in files: buffers that were computed are in memory already."""
    names = [original for original in block.originals if id(original) in skeleton.recipes]
    part = Block(block.name, block.module, originals=names)
    return DiskBlock(part, [skeleton.recipes[id(original)] for original in names])


def _home(block: Block, from_files: DiskBlock, read: list[torch.Tensor], pin_for: Device | None) -> Home:
    """A slab filled from what was `read`, and from memory for the rest."""
    slab = host_slab(block.nbytes)
    pinned = pin_for is not None and bool(block.nbytes) and pin_for.pin(slab)
    by_identity = {id(original): tensor for original, tensor in zip(from_files.block.originals, read)}
    with torch.inference_mode(False), torch.no_grad():
        tensors = block.tensors_in(slab)
        for original, tensor in zip(block.originals, tensors):
            tensor.data.copy_(by_identity.get(id(original), original))
    block.parts = [take_apart(tensor, block.name).forget() for tensor in tensors]
    home = Home(block, slab, tensors, [torch.device("cpu")] * len(tensors), pinned)
    home.put()
    return home
