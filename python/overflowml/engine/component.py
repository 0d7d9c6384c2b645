"""One model under management: hooks that see its passes, and the order in which its blocks run."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any, Callable

import torch
from torch import nn

from .block import Block
from .device import Device
from .disguise import computes_on
from .watch import members_changed


@dataclass
class PassStats:
    """Counters since the component was taken over."""

    passes: int = 0
    misses: int = 0
    """Blocks that were not there when they were needed, because the order differed or it was the first pass."""
    host_copied_bytes: int = 0
    adapted: int = 0


@dataclass
class Running:
    """The pass in progress."""

    order: list[int] = field(default_factory=list)
    marks: list[tuple[int, Any, Any, Any]] = field(default_factory=list)
    started: float = 0.0


class Component:
    """A module whose weights are kept elsewhere between uses. Subclasses say where.

    One pass at a time: a second thread that calls the module waits for the first.
    """

    def __init__(self, name: str, root: nn.Module, blocks: list[Block], device: Device) -> None:
        self.name, self.root, self.blocks, self.device = name, root, blocks, device
        self.stats = PassStats()
        self.before_activation: Callable[[Component], None] | None = None
        self.last: Running = Running()
        self.seconds_per_pass = 0.0
        self.activation_bytes = 0
        self.active = False
        self._running = Running()
        self._lock = threading.RLock()
        self._depth = 0
        self._handles: list[Any] = []
        self._block_handles: dict[int, list[Any]] = {}
        self._wrapped: list[tuple[nn.Module, str]] = []
        self._generation = members_changed()
        self._undisguise: Callable[[], None] = lambda: None

    # What subclasses provide.

    def _activate(self) -> None:
        """Brings what has to be there during a pass."""
        raise NotImplementedError

    def _deactivate(self) -> None:
        """Takes it away again; the modules find their host copies."""
        raise NotImplementedError

    def _enter(self, index: int) -> None:
        raise NotImplementedError

    def _leave(self, index: int) -> None:
        raise NotImplementedError

    def _begin_pass(self) -> None: ...

    def _end_pass(self) -> None: ...

    def _members_changed(self) -> None: ...

    def _prepare_inputs(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, kwargs

    def device_bytes(self) -> int:
        """What the component occupies in fast memory while it is in use, without activations."""
        raise NotImplementedError

    def streamed(self) -> list[int]:
        """Blocks that are hooked: those that are not always there."""
        raise NotImplementedError

    def block_bytes(self, index: int) -> int:
        """What travels for one block."""
        return self.blocks[index].nbytes

    def timeline(self) -> list[tuple[str, float, float, float]]:
        """(block, start, wait, compute) of the last pass, in seconds from its first block."""
        rows = [row for row in self.last.marks if row[3] is not None]
        return [(self.blocks[i].name, start - rows[0][1], wait, done - start - wait) for i, start, wait, done in rows]

    def _note_wait(self, index: int, wait: float) -> None:
        """For components that run in step with the host: a block has come, after `wait` seconds."""
        self._running.marks.append((index, time.perf_counter() - wait, wait, None))

    def _note_done(self, index: int) -> None:
        if self._running.marks and self._running.marks[-1][0] == index:
            self._running.marks[-1] = (*self._running.marks[-1][:3], time.perf_counter())

    def disk_counters(self) -> dict[str, float]:
        """What was read from disk."""
        return {}

    def send_back(self) -> None:
        """Puts the weights where they were before the component was taken over."""

    # Passes.

    def attach(self) -> None:
        """Hooks the module, so that its weights are there when it runs."""
        self._handles += _hook(self.root, self._root_enter, self._root_leave, kwargs=True)
        for method in ("encode", "decode", "generate", "get_text_features", "get_image_features", "tiled_decode", "tiled_encode"):
            if callable(getattr(self.root, method, None)):
                self._wrap(self.root, method)
        self.hook_blocks()
        self._undisguise = computes_on(self.root, self.device.where)

    def hook_blocks(self) -> None:
        """Hooks exactly the blocks that are streamed now."""
        streamed = set(self.streamed())
        for index in [index for index in self._block_handles if index not in streamed]:
            _unhook(self._block_handles.pop(index))
        for index in sorted(streamed - set(self._block_handles)):
            hooks = _hook(self.blocks[index].module, self._block_enter(index), self._block_leave(index))
            self._block_handles[index] = hooks

    def _wrap(self, module: nn.Module, name: str) -> None:
        method = getattr(module, name)

        def managed(*args: Any, **kwargs: Any) -> Any:
            with self.in_use():
                args, kwargs = self._prepare_inputs(args, kwargs)
                return method(*args, **kwargs)

        managed.__name__, managed.__doc__, managed.__wrapped__ = name, method.__doc__, method  # type: ignore[attr-defined]
        module.__dict__[name] = managed
        self._wrapped.append((module, name))

    def detach(self) -> None:
        """Takes every hook off."""
        self._undisguise()
        _unhook(self._handles + [handle for handles in self._block_handles.values() for handle in handles])
        for module, name in self._wrapped:
            module.__dict__.pop(name, None)
        self._handles, self._block_handles, self._wrapped = [], {}, []

    def in_use(self) -> _InUse:
        """Holds the component on the device for a `with` block."""
        return _InUse(self)

    def begin_use(self) -> None:
        self._lock.acquire()
        self._depth += 1
        try:
            self.ensure_active()
        except BaseException:
            self.end_use()
            raise

    def end_use(self) -> None:
        self._depth -= 1
        self._lock.release()

    def ensure_active(self) -> None:
        if not self.active:
            if self.before_activation is not None:
                self.before_activation(self)
            self._activate()
            self.active = True
        if self._generation != members_changed():
            self._generation = members_changed()
            self._members_changed()

    def deactivate(self) -> None:
        """Frees the device; the next use brings everything back."""
        with self._lock:
            if self.active:
                self._deactivate()
                self.active = False

    def _root_enter(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._lock.acquire()
        self._depth += 1
        self._entered().append(True)
        self.ensure_active()
        self._begin_pass()
        self._running = Running(started=time.perf_counter())
        return self._prepare_inputs(args, kwargs)

    def _root_leave(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        if not self._entered():
            return
        self._entered().pop()
        try:
            self.last, self._running = self._running, Running()
            self.seconds_per_pass = time.perf_counter() - self.last.started
            self.stats.passes += 1
            self._end_pass()
        finally:
            self._depth -= 1
            self._lock.release()

    def _entered(self) -> list[bool]:
        """Passes that this thread is inside of: a hook that runs after a failed start must not unlock twice."""
        local = self.__dict__.setdefault("_local", threading.local())
        if not hasattr(local, "entered"):
            local.entered = []
        return local.entered  # type: ignore[no-any-return]

    def _block_enter(self, index: int) -> Callable[..., None]:
        def enter(_module: nn.Module, _args: Any) -> None:
            self.ensure_active()
            self._running.order.append(index)
            self._enter(index)

        return enter

    def _block_leave(self, index: int) -> Callable[..., None]:
        def leave(_module: nn.Module, _args: Any, _output: Any) -> None:
            self._leave(index)

        return leave


def _hook(module: nn.Module, enter: Any, leave: Any, kwargs: bool = False) -> list[Any]:
    """Has `enter` called before `module` runs and `leave` after it, even if it fails."""
    enter, leave = torch.compiler.disable(enter), torch.compiler.disable(leave)
    return [
        module.register_forward_pre_hook(enter, prepend=True, with_kwargs=kwargs),
        module.register_forward_hook(leave, always_call=True),
    ]


def _unhook(handles: list[Any]) -> None:
    for handle in handles:
        handle.remove()


class _InUse:
    def __init__(self, component: Component) -> None:
        self._component = component

    def __enter__(self) -> None:
        self._component.begin_use()

    def __exit__(self, *_: object) -> None:
        self._component.end_use()
