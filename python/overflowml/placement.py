"""The question put to the planner about a torch object, and its answer."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from . import _native


@dataclass
class StackRequest:
    """Blocks that run one after the other; bytes of each, in order."""

    name: str
    block_bytes: list[int]


@dataclass
class ComponentRequest:
    """One model. `fixed_bytes` are the parameters and buffers outside its stacks."""

    name: str
    kind: str
    source: str
    dtype: str
    fixed_bytes: int
    activation_bytes: int
    stacks: list[StackRequest] = field(default_factory=list)


@dataclass
class PlacementRequest:
    """Everything the planner needs to know. Budgets of `None` mean what is free now, less a reserve."""

    device: dict[str, Any]
    components: list[ComponentRequest]
    vram_bytes: int | None = None
    ram_bytes: int | None = None
    task: str = "other"
    steps: int = 1
    allow: list[str] = field(default_factory=lambda: ["exact"])


@dataclass
class ComponentPlacement:
    """Where one model goes: `mode` is `resident`, `component` or `stream`; flags say which blocks stay.

    `host` says which blocks main memory keeps between uses; the others are read from disk each time.
    """

    name: str
    mode: str
    precision: str
    slots: int
    resident: list[list[bool]]
    host: list[list[bool]] = field(default_factory=list)

    def flags(self) -> list[bool]:
        """One flag per block, over all stacks."""
        return [flag for stack in self.resident for flag in stack]


@dataclass
class Placement:
    """The planner's answer."""

    strategy: dict[str, str]
    components: list[ComponentPlacement]
    vae: dict[str, bool]
    predicted: dict[str, float]
    rejected: list[dict[str, str]]
    notes: list[str]
    warnings: list[str]

    def of(self, name: str) -> ComponentPlacement:
        return next(component for component in self.components if component.name == name)


def place(request: PlacementRequest) -> Placement:
    """Asks the planner.

    Raises:
        Infeasible: nothing fits; the message names the smallest budget that does.
    """
    answer = json.loads(_native.place(json.dumps(asdict(request))))
    return Placement(
        strategy=answer["strategy"],
        components=[ComponentPlacement(**component) for component in answer["components"]],
        vae=answer["vae"],
        predicted=answer["predicted"],
        rejected=answer["rejected"],
        notes=answer["notes"],
        warnings=answer["warnings"],
    )
