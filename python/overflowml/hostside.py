"""`optimize_*` on a machine without an accelerator: what is in memory stays there, unless less memory is allowed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import Infeasible, refuse
from .sizes import show_size
from .strategy import OffloadMode, Strategy, strategy_of

if TYPE_CHECKING:
    from .engine.takeover import Subject, Wish


def optimize_on_host(owner: Any, models: list[tuple[str, Any, str]], wish: Wish, spill: bool | str) -> Strategy:
    """Places models that are in main memory and compute there."""
    from .engine.hostdevice import HostDevice
    from .engine.manager import Manager, remember
    from .engine.stacks import module_bytes

    total = sum(module_bytes(module) for _, module, _ in models)
    manager = Manager(HostDevice(), budget_bytes=wish.ram)
    if wish.ram is None or total <= wish.ram:
        remember(owner, manager)
        note = "no accelerator was found: everything is in main memory already, where it computes"
        return Strategy(offload=OffloadMode.NONE, dtype=_dtype(models), estimated_ram_gb=total / 2**30, notes=[note], _manager=manager)
    if not spill:
        raise refuse(
            Infeasible, "python.already-in-memory",
            f"the weights are {show_size(total)} and are in memory already, but ram= allows {show_size(wish.ram)}",
            "load them with load_model or load_pipeline, which never hold more than that, or pass spill=True to move them to a temporary file",
        )
    return _spill_all(owner, models, wish, spill, manager)


def _spill_all(owner: Any, models: list[tuple[str, Any, str]], wish: Wish, spill: bool | str, manager: Any) -> Strategy:
    from .engine.spill import Spill, SpilledStreamer
    from .engine.takeover import examine
    from .optimize import finish_owner
    from .placement import PlacementRequest, place

    wish.vram = wish.ram
    subjects = [examine(name, module, kind, wish) for name, module, kind in models]
    requests = [_on_disk(subject) for subject in subjects]
    placement = place(PlacementRequest({"kind": "cpu"}, requests, None, wish.ram, wish.task, wish.steps, wish.allow))
    manager.placement = placement
    try:
        for subject in subjects:
            decided = placement.of(subject.name)
            flags = decided.flags() if decided.mode == "stream" else [True] * len(subject.anatomy.blocks())
            file = Spill(spill if isinstance(spill, str) else None)
            component = SpilledStreamer(subject.name, subject.module, subject.anatomy, file, flags, decided.slots)
            component.activation_bytes, component.before_activation = subject.activation_bytes, manager.make_room
            manager.components.append(component)
            manager.undo += [component.send_back, component.detach]
            component.attach()
    except BaseException:
        manager.restore()
        raise
    strategy = strategy_of(placement, _manager=manager)
    finish_owner(owner, manager, strategy)
    return strategy


def _on_disk(subject: Subject) -> Any:
    request = subject.request()
    request.source = "disk"
    return request


def _dtype(models: list[tuple[str, Any, str]]) -> str:
    from .engine.takeover import dtype_word

    words = {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}
    return words.get(dtype_word(models[-1][1]), "float32")
