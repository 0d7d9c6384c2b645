"""How a parameter comes from tensors in files: usually it is one of them, sometimes it is computed from several.

A loader that renames, stacks, splits or casts what it reads is run once on tensors without data, while every operation is
written down. The same operations on the real bytes give the parameter, each time its block is needed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Sequence

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map


@dataclass(frozen=True)
class FileTensor:
    """A tensor in one of the model's files."""

    name: str
    file: int
    offset: int
    length: int
    dtype: torch.dtype
    shape: tuple[int, ...]


@dataclass
class Recipe:
    """A parameter: the file's own tensor, or what `steps` make of `sources`."""

    sources: list[FileTensor]
    steps: list[_Step] = field(default_factory=list)
    result: int = -1

    def is_plain(self) -> bool:
        return not self.steps

    def make(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        """The parameter, from its sources' tensors in order."""
        known: dict[int, Any] = {-1 - index: tensor for index, tensor in enumerate(tensors)}
        for step in self.steps:
            args, kwargs = tree_map(lambda v: known[v.number] if isinstance(v, _Ref) else v, (step.args, step.kwargs))
            output = step.function(*args, **kwargs)
            for number, value in zip(step.outputs, tree_flatten(output)[0]):
                known[number] = value
        return known[self.result]  # type: ignore[no-any-return]


@dataclass(frozen=True)
class _Ref:
    number: int


@dataclass
class _Step:
    function: Any
    args: Any
    kwargs: Any
    outputs: list[int]


class Recorder(TorchDispatchMode):
    """While active, writes down what happens to the tensors that `stand_in` gave out."""

    def __init__(self) -> None:
        super().__init__()
        self._numbers: dict[int, int] = {}
        self._kept: list[torch.Tensor] = []
        self._origin: dict[int, FileTensor] = {}
        self._steps: list[_Step] = []
        self._by_output: dict[int, _Step] = {}

    def stand_in(self, source: FileTensor) -> torch.Tensor:
        """A tensor without data in the place of one in a file."""
        tensor = torch.empty(source.shape, dtype=source.dtype, device="meta")
        self._origin[self._number(tensor)] = source
        return tensor

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._to_copy.default and args and id(args[0]) in self._numbers:
            return self._cast(args[0], kwargs)
        output = func(*args, **kwargs)
        inputs = [v for v in tree_flatten((args, kwargs))[0] if isinstance(v, torch.Tensor)]
        if any(id(tensor) in self._numbers for tensor in inputs):
            self._note(func, args, kwargs, output)
        return output

    def _cast(self, tensor: torch.Tensor, kwargs: dict[str, Any]) -> torch.Tensor:
        """A move to the host is no step: tensors without data are everywhere. A cast is."""
        dtype = kwargs.get("dtype") or tensor.dtype
        if dtype == tensor.dtype:
            return tensor
        output = torch.empty_like(tensor, dtype=dtype, device="meta")
        self._note(torch.ops.aten._to_copy.default, (tensor,), {"dtype": dtype}, output)
        return output

    def _note(self, func: Any, args: Any, kwargs: Any, output: Any) -> None:
        refer = lambda v: _Ref(self._number(v)) if isinstance(v, torch.Tensor) else v  # noqa: E731
        numbers = [self._number(v) for v in tree_flatten(output)[0] if isinstance(v, torch.Tensor)]
        args, kwargs = tree_map(refer, (args, kwargs))
        if kwargs.get("device") == torch.device("meta"):
            kwargs = {**kwargs, "device": None}
        step = _Step(func, args, kwargs, numbers)
        self._steps.append(step)
        for number in numbers:
            self._by_output.setdefault(number, step)

    def _number(self, tensor: torch.Tensor) -> int:
        if id(tensor) not in self._numbers:
            self._numbers[id(tensor)] = len(self._kept)
            self._kept.append(tensor)
        return self._numbers[id(tensor)]

    def recipe(self, tensor: torch.Tensor) -> Recipe | None:
        """How `tensor` came about; `None` if it does not come from files."""
        number = self._numbers.get(id(tensor))
        if number is None:
            return None
        needed, sources = self._trace(number)
        if not sources:
            return None
        rename = {origin: -1 - index for index, origin in enumerate(sources)}
        steps = [step for step in self._steps if id(step) in needed]
        if all(_changes_nothing(step) for step in steps) and len(sources) == 1:
            return Recipe([self._origin[next(iter(sources))]])
        translated = [_renumbered(step, rename) for step in steps]
        return Recipe([self._origin[origin] for origin in sources], translated, rename.get(number, number))

    def _trace(self, number: int) -> tuple[set[int], dict[int, None]]:
        """(steps, sources) that `number` depends on."""
        needed: set[int] = set()
        sources: dict[int, None] = {}
        waiting = [number]
        while waiting:
            current = waiting.pop()
            if current in self._origin:
                sources[current] = None
                continue
            step = self._by_output.get(current)
            if step is not None and id(step) not in needed:
                needed.add(id(step))
                waiting += [v.number for v in tree_flatten((step.args, step.kwargs))[0] if isinstance(v, _Ref)]
        return needed, dict(sorted(sources.items()))


def _changes_nothing(step: _Step) -> bool:
    """Whether the step's result is its input: same shape, dtype and layout."""
    name = str(step.function).replace(".default", "").replace("aten.", "aten::")
    if name in ("aten::alias", "aten::detach", "aten::lift_fresh"):
        return True
    return name == "aten::slice.Tensor" and len(step.args) <= 1


def _renumbered(step: _Step, rename: dict[int, int]) -> _Step:
    change = lambda v: _Ref(rename.get(v.number, v.number)) if isinstance(v, _Ref) else v  # noqa: E731
    args, kwargs = tree_map(change, (step.args, step.kwargs))
    return _Step(step.function, args, kwargs, step.outputs)
