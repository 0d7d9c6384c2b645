"""Blocks from host memory through slots on a device.

Per streamed block and pass: one copy, queued when a slot falls free, one wait of the computing queue for it, and the
parameters put in place. The host waits for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from .component import Component
from .device import Device, Mark
from .home import Home, pin, send_back
from .ring import Ring


@dataclass
class Slot:
    """Device memory for any streamed block."""

    memory: torch.Tensor
    ready: Mark | None = None
    """Reached when the block's bytes have arrived."""
    free: Mark | None = None
    """Reached when nothing queued so far computes with them any more."""
    views: dict[int, list[torch.Tensor]] = field(default_factory=dict)
    version: int = 0
    """Of the host copy when it was copied from."""


class Streamer(Component):
    """A module with blocks at home in host memory: some always on the device in use, the others through slots."""

    def __init__(
        self, name: str, root: nn.Module, fixed: Home, homes: list[Home], device: Device, resident: list[bool], slots: int,
        unmovable: list[nn.Module] | None = None,
    ) -> None:
        super().__init__(name, root, [home.block for home in homes], device)
        self.fixed, self.homes = fixed, homes
        self.resident, self.slot_count = list(resident), slots
        self._unmovable = unmovable or []
        self._memory: dict[int, torch.Tensor] = {}
        self._on_device: dict[int, tuple[Home, list[torch.Tensor], list[int]]] = {}
        self._slots: list[Slot] = []
        self._pending: list[Mark] = []
        self._order: list[int] | None = None
        self._ring = Ring([], 0)
        self.adapt: Any = None
        self.extras: list[torch.Tensor] = []
        self.pin_all = self.stays = False

    # What is where.

    def streamed(self) -> list[int]:
        return [index for index, stays in enumerate(self.resident) if not stays]

    def device_bytes(self) -> int:
        """What the component occupies while it is in use, without activations."""
        stay = sum(home.slab.numel() for home, stays in zip(self.homes, self.resident) if stays)
        return self.fixed.slab.numel() + stay + self.slot_count * self._slot_bytes()

    def _slot_bytes(self) -> int:
        return max((self.homes[index].slab.numel() for index in self.streamed()), default=0)

    def pin(self) -> bool:
        """Registers what travels often; false if the system refuses some of it."""
        often = [self.fixed, *self.homes] if self.pin_all else [self.homes[index] for index in self.streamed()]
        return all([pin(home, self.device) for home in often])

    # Coming and going.

    def _activate(self) -> None:
        try:
            self._bring(-1, self.fixed)
            for index, stays in enumerate(self.resident):
                if stays:
                    self._bring(index, self.homes[index])
            size = self._slot_bytes()
            self._slots = [Slot(self.device.allocate(size)) for _ in range(self.slot_count)] if size else []
            for slot in self._slots:
                slot.free = self.device.mark()
            self._ring = Ring(self._streamed_order(), len(self._slots))
            for mark in self._pending:
                self.device.wait(mark)
            self._pending = []
            for _, tensors, versions in self._on_device.values():
                versions += [tensor._version for tensor in tensors]
            for module in self._unmovable:
                module.to(self.device.where)
            self._place_extras()
            self._fill_slots()
        except BaseException:
            self._deactivate()
            raise

    def _bring(self, key: int, home: Home) -> None:
        if not home.slab.numel():
            return
        memory = self.device.allocate(home.slab.numel())
        # Memory that torch hands out again may still be read by what was queued before.
        self._pending.append(self.device.copy(memory, home.slab, self.device.mark()))
        tensors = home.block.tensors_in(memory)
        self._memory[key], self._on_device[key] = memory, (home, tensors, [])
        home.block.put(tensors)

    def _keep_changes(self) -> None:
        """Writes home what someone wrote to weights on the device: nobody, unless weights were loaded or adapters fused."""
        for home, tensors, versions in self._on_device.values():
            for index, (tensor, version) in enumerate(zip(tensors, versions)):
                if tensor._version != version:
                    home.take_in(index, tensor)
                    self.device.traffic.from_device_bytes += tensor.numel() * tensor.element_size()
            if not home.block.holds(tensors):
                _swap_unchanged(home, tensors)
                home.accept_changes()

    def _deactivate(self) -> None:
        self._keep_changes()
        for mark in [*self._pending, *(slot.ready for slot in self._slots)]:
            if mark is not None:
                self.device.wait(mark)
        self.fixed.put()
        for home in self.homes:
            home.put()
        self._memory, self._on_device, self._slots, self._pending = {}, {}, [], []
        self._ring = Ring([], 0)
        self.device.release_cache()

    def _streamed_order(self) -> list[int]:
        seen = self._order if self._order is not None else range(len(self.blocks))
        return [index for index in seen if not self.resident[index]]

    def deactivate(self) -> None:
        if not self.stays:
            super().deactivate()

    # A pass.

    def _begin_pass(self) -> None:
        if self.adapt is not None:
            self.adapt(self)
        self._ring.restart()
        self._fill_slots()

    def _end_pass(self) -> None:
        order = [index for index in self.last.order if not self.resident[index]]
        if order and order != self._ring.order and set(order) >= set(self.streamed()):
            self._order = self._with_residents(order)
            self._ring.order = order
            self._ring.restart()

    def _with_residents(self, order: list[int]) -> list[int]:
        """The observed order, with the blocks that are not observed where they were defined."""
        missing = [index for index, stays in enumerate(self.resident) if stays]
        return _merge(order, missing)

    def _enter(self, index: int) -> None:
        slot_index = self._ring.slot_of(index)
        home = self.homes[index]
        if home.accept_changes() or (slot_index is not None and self._slots[slot_index].version != home.version()):
            slot_index = None
        if slot_index is None:
            self.stats.misses += 1
            slot_index = self._ring.victim()
            if index in self._ring.held:
                slot_index = self._ring.held.index(index)
            self._load(index, slot_index)
        slot = self._slots[slot_index]
        before = self.device.mark(timed=True)
        assert slot.ready is not None
        self.device.wait(slot.ready)
        after = self.device.mark(timed=True)
        self._running.marks.append((index, before, after, None))
        if index not in slot.views:
            slot.views[index] = self.blocks[index].tensors_in(slot.memory)
        self.blocks[index].put(slot.views[index])
        self._ring.used(index)

    def _leave(self, index: int) -> None:
        slot_index = self._ring.slot_of(index)
        self.homes[index].put()
        if slot_index is None:
            return
        slot = self._slots[slot_index]
        slot.free = self.device.mark(timed=True)
        if self._running.marks and self._running.marks[-1][0] == index:
            self._running.marks[-1] = (*self._running.marks[-1][:3], slot.free)
        following = self._ring.upcoming(slot_index)
        if following is not None:
            self._load(following, slot_index)

    def _load(self, index: int, slot_index: int) -> None:
        slot, slab = self._slots[slot_index], self.homes[index].slab
        self._ring.held[slot_index] = None
        slot.version = self.homes[index].version()
        slot.ready = self.device.copy(slot.memory[: slab.numel()], slab, slot.free)
        self._ring.held[slot_index] = index

    def _fill_slots(self) -> None:
        for slot_index, held in enumerate(self._ring.held):
            if held is None:
                following = self._ring.upcoming(slot_index)
                if following is not None:
                    self._load(following, slot_index)

    # Members that came later, such as adapters.

    def _members_changed(self) -> None:
        self._place_extras()

    def _place_extras(self) -> None:
        """Puts parameters that were added after the component was taken over on the device, to stay there."""
        if self.device.where.type == "cpu":
            return
        known = {(id(m.store), m.key) for block in (self.fixed.block, *self.blocks) for m in block.members}
        for module in self.root.modules():
            for store in (module._parameters, module._buffers):
                for key, tensor in store.items():
                    if tensor is not None and (id(store), key) not in known and tensor.device != self.device.where:
                        tensor.data = tensor.data.to(self.device.where)
                        self.extras.append(tensor)

    def _prepare_inputs(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        where = self.device.where
        if where.type == "cpu":
            return args, kwargs
        return (
            tuple(_moved(value, where) for value in args),
            {key: _moved(value, where) for key, value in kwargs.items()},
        )

    def timeline(self) -> list[tuple[str, float, float, float]]:
        rows = []
        complete = [row for row in self.last.marks if row[3] is not None]
        for index, before, after, done in complete:
            start, wait, compute = (
                self.device.milliseconds(complete[0][1], before), self.device.milliseconds(before, after),
                self.device.milliseconds(after, done),
            )
            rows.append((self.blocks[index].name, start / 1e3, wait / 1e3, compute / 1e3))
        return rows

    def send_back(self) -> None:
        self.stays = False
        self.deactivate()
        for home in [self.fixed, *self.homes]:
            send_back(home, self.device)
        for module in self._unmovable:
            module.to("cpu")
        for tensor in self.extras:
            tensor.data = tensor.data.to("cpu")

    def rearrange(self, resident: list[bool], slots: int) -> None:
        """Changes which blocks stay, between passes."""
        was_active = self.active
        self.deactivate()
        self.resident, self.slot_count = list(resident), slots
        self.pin()
        self.hook_blocks()
        self.stats.adapted += 1
        if was_active:
            self.ensure_active()


def _swap_unchanged(home: Home, on_device: list[torch.Tensor]) -> None:
    """Puts our host tensors back where the modules still find our device tensors; what others put there stays."""
    for member in home.block.members:
        if member.store.get(member.key) is on_device[member.tensor]:
            member.put(home.tensors[member.tensor])


def _merge(order: list[int], missing: list[int]) -> list[int]:
    merged, waiting = [], sorted(missing)
    for index in order:
        while waiting and waiting[0] < index:
            merged.append(waiting.pop(0))
        merged.append(index)
    return merged + waiting


def _moved(value: Any, where: torch.device) -> Any:
    if isinstance(value, torch.Tensor) and value.device.type == "cpu" and value.dim():
        return value.to(where)
    return value
