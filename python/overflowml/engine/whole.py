"""A model that fits: it is moved once and then left alone. No hooks, no cost."""

from __future__ import annotations

import torch
from torch import nn

from .component import Component
from .device import Device
from .stacks import module_bytes


class Whole(Component):
    """All of a module, on the device for good."""

    def __init__(self, name: str, root: nn.Module, device: Device) -> None:
        super().__init__(name, root, [], device)
        self._came_from = {id(t): t.device for t in _tensors(root)}

    def attach(self) -> None:
        if self.before_activation is not None:
            self.before_activation(self)
        self.device.traffic.to_device_bytes += sum(_size(t) for t in _tensors(self.root) if t.device != self.device.where)
        self.root.to(self.device.where)
        self.active = True

    def deactivate(self) -> None:
        """It stays: it was planned to fit beside everything else."""

    def send_back(self) -> None:
        """Puts every tensor back on the device it came from."""
        with torch.no_grad():
            for tensor in _tensors(self.root):
                where = self._came_from.get(id(tensor), torch.device("cpu"))
                if tensor.device != where:
                    tensor.data = tensor.data.to(where)

    def streamed(self) -> list[int]:
        return []

    def device_bytes(self) -> int:
        return module_bytes(self.root)


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]


def _size(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
