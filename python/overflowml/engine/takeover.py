"""Takes models over: cuts them, asks the planner, moves their weights home, and starts managing them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..placement import ComponentPlacement, ComponentRequest, PlacementRequest, StackRequest
from ..progress import Progress
from .activations import estimate_activations
from .block import rounded
from .component import Component
from .device import Device
from .home import settle
from .manager import Manager, forget, manager_of
from .stacks import Anatomy, dissect, module_bytes
from .streamer import Streamer
from .whole import Whole


@dataclass
class Subject:
    """One model to be placed."""

    name: str
    module: nn.Module
    kind: str
    anatomy: Anatomy
    activation_bytes: int

    def request(self) -> ComponentRequest:
        stacks = [StackRequest(stack.name, [block.nbytes for block in stack.blocks]) for stack in self.anatomy.stacks]
        unmovable = sum(module_bytes(module) for module in self.anatomy.unmovable)
        fixed = self.anatomy.fixed.nbytes + unmovable
        return ComponentRequest(self.name, self.kind, "host", dtype_word(self.module), fixed, self.activation_bytes, stacks)


@dataclass
class Wish:
    """What the caller wants of all models together."""

    vram: int | None = None
    ram: int | None = None
    task: str = "other"
    steps: int = 1
    allow: list[str] = field(default_factory=lambda: ["exact"])
    activations: int | None = None
    progress: bool | None = None


def examine(name: str, module: nn.Module, kind: str, wish: Wish) -> Subject:
    """Cuts `module`, finely enough for the budget in question."""
    anatomy = dissect(module, _largest_block(module, wish.vram))
    activations = wish.activations if wish.activations is not None else estimate_activations(module, kind)
    return Subject(name, module, kind, anatomy, activations)


def _largest_block(module: nn.Module, budget: int | None) -> int:
    """Blocks above this are cut further: an eighth of the model, or of the budget if that is smaller."""
    total = module_bytes(module)
    return max(min(total, budget if budget is not None else total) // 8, 1)


def question(subjects: list[Subject], device: Device, wish: Wish) -> PlacementRequest:
    """What the planner is asked about `subjects` on `device`."""
    total = device.total_bytes()
    free = min(total, device.free_bytes() + sum(_bytes_on(subject.module, device) for subject in subjects))
    described = {"kind": _device_kind(device), "name": device.name, "total_bytes": total, "free_bytes": free, "unified": False}
    requests = [subject.request() for subject in subjects]
    return PlacementRequest(described, requests, wish.vram, wish.ram, wish.task, wish.steps, wish.allow)


def _bytes_on(module: nn.Module, device: Device) -> int:
    """What a module occupies on the device already: it can be placed anew."""
    if device.where.type == "cpu":
        return 0
    tensors = {id(t): t for t in [*module.parameters(), *module.buffers()] if t.device == device.where}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def budget_of(request: PlacementRequest) -> int:
    """The device memory that may be used: what was given, or what is free less a little for the driver."""
    if request.vram_bytes is not None:
        return request.vram_bytes
    total, free = int(request.device["total_bytes"]), int(request.device["free_bytes"])
    return max(0, free - max(total // 32, 256 << 20))


def _device_kind(device: Device) -> str:
    return "cuda" if device.where.type == "cpu" else device.where.type


def take_over(subject: Subject, decided: ComponentPlacement, device: Device, manager: Manager, progress: Progress) -> Component:
    """Starts managing one model as decided."""
    if decided.mode == "resident" and decided.precision == "exact":
        component: Component = Whole(subject.name, subject.module, device)
    else:
        component = _stream(subject, decided, device, manager, progress)
    component.activation_bytes = subject.activation_bytes
    component.before_activation = manager.make_room
    manager.components.append(component)
    manager.notes += subject.anatomy.notes
    component.attach()
    return component


def _stream(
    subject: Subject, decided: ComponentPlacement, device: Device, manager: Manager, progress: Progress
) -> Streamer:
    anatomy = subject.anatomy
    blocks = anatomy.blocks()
    flags = decided.flags() if decided.mode == "stream" else [True] * len(blocks)
    travels = decided.mode == "component"
    fixed = settle(anatomy.fixed, anatomy.pieces.pop(""), device if travels else None)
    homes = []
    for block, stays in zip(blocks, flags):
        pieces = anatomy.pieces.pop(block.name)
        if decided.precision != "exact":
            block, pieces = rounded(block, decided.precision)
        homes.append(settle(block, pieces, device if travels or not stays else None))
        progress.advance(block.nbytes)
    component = Streamer(subject.name, subject.module, fixed, homes, device, flags, decided.slots, anatomy.unmovable)
    component.stats.host_copied_bytes = sum(home.slab.numel() for home in [fixed, *homes])
    component.pin_all = travels
    component.stays = decided.mode == "resident"
    if decided.precision != "exact":
        manager.notes.append(ROUNDED.format(subject.name or "the model", decided.precision))
    if not component.pin():
        manager.notes.append(UNPINNED)
    return component


ROUNDED = "{}: matrices are rounded to {} and turned back on use, which changes results; restore() gives the rounded weights"
UNPINNED = "host memory could not be registered for direct copies: copies are slower and hold the host up"


def dtype_word(module: nn.Module) -> str:
    """The most common dtype of the parameters, by bytes, in the planner's words."""
    sizes: dict[torch.dtype, int] = {}
    for parameter in module.parameters():
        sizes[parameter.dtype] = sizes.get(parameter.dtype, 0) + parameter.numel() * parameter.element_size()
    most = max(sizes, key=lambda dtype: sizes[dtype], default=torch.float32)
    return {torch.bfloat16: "bf16", torch.float16: "f16", torch.float32: "f32"}.get(most, str(most).removeprefix("torch."))


def restore(obj: Any) -> None:
    """Undoes everything that was done to `obj`."""
    manager = manager_of(obj)
    if manager is not None:
        manager.restore()
        forget(obj)

