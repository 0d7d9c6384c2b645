"""Places skeletons where the planner wants them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ..engine.hostdevice import HostDevice
from ..engine.manager import Manager
from ..engine.takeover import Wish
from ..memory import available_memory
from ..optimize import choose_device, finish_owner
from ..strategy import Strategy, strategy_of
from .skeleton import Skeleton
from .takeover import decide_on_host, examine_on_disk, stream_from_disk

if TYPE_CHECKING:
    from ..engine.device import Device


def place_skeletons(owner: Any, skeletons: list[tuple[Skeleton, str]], wish: Wish, device: Device | str | None) -> Strategy:
    """Decides about, and starts managing, models whose weights are on disk."""
    chosen = choose_device(device)
    if chosen is not None:
        from .ondevice import place_on_device

        return place_on_device(owner, skeletons, wish, chosen)
    if wish.ram is None:
        wish.ram = int(available_memory() * 0.9)
    total = sum(max(_size(tensor), 1) for skeleton, _ in skeletons for tensor in skeleton.kept)
    fits = total <= wish.ram
    subjects = [examine_on_disk(skeleton, kind, wish, fits) for skeleton, kind in skeletons]
    placement = decide_on_host(subjects, wish)
    manager = Manager(HostDevice(), placement=placement, budget_bytes=wish.ram)
    try:
        for subject in subjects:
            component = stream_from_disk(subject, placement.of(subject.skeleton.name))
            component.before_activation = manager.make_room
            manager.components.append(component)
            manager.undo += [component.send_back, component.detach]
            manager.notes += subject.anatomy.notes
            component.attach()
    except BaseException:
        manager.restore()
        raise
    strategy = strategy_of(placement, _manager=manager)
    strategy.notes += manager.notes
    finish_owner(owner, manager, strategy)
    return strategy


def _size(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
