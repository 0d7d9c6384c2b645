"""Run models that are larger than the GPU, or larger than memory.

    import overflowml
    overflowml.optimize_pipeline(pipe)          # any diffusers pipeline, as it is
    overflowml.optimize_model(model)            # any torch module
    model, tokenizer = overflowml.load_model("folder or hub id", ram="8GiB")

Importing this package imports neither torch nor a GPU library; each function imports what it needs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import ArgumentError, ClosedError, Infeasible, InUse, ModelError, OverflowmlError, ReadError, UnsupportedObject
    from .batching import BatchReport, auto_batch
    from .guard import MemoryGuard
    from .hardware import Accelerator, HardwareProfile, detect_hardware
    from .load import load_model, load_pipeline, strategy_of
    from .optimize import optimize_model, optimize_pipeline, restore
    from .planner import CanRunResult, can_run, doctor, inspect_model, pick_strategy, plan
    from .strategy import OffloadMode, QuantMode, Strategy

_WHERE = {
    "optimize_model": "optimize", "optimize_pipeline": "optimize", "restore": "optimize",
    "load_model": "load", "load_pipeline": "load", "strategy_of": "load",
    "detect_hardware": "hardware", "HardwareProfile": "hardware", "Accelerator": "hardware",
    "plan": "planner", "can_run": "planner", "inspect_model": "planner", "doctor": "planner", "pick_strategy": "planner",
    "CanRunResult": "planner", "MemoryGuard": "guard", "auto_batch": "batching", "BatchReport": "batching",
    "Strategy": "strategy", "OffloadMode": "strategy", "QuantMode": "strategy",
    "OverflowmlError": "errors", "Infeasible": "errors", "ModelError": "errors", "ReadError": "errors", "ClosedError": "errors",
    "ArgumentError": "errors",
    "UnsupportedObject": "errors", "InUse": "errors",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    module = _WHERE.get(name)
    if module is None:
        raise AttributeError(f"module `overflowml` has no attribute `{name}`")
    value = getattr(importlib.import_module(f".{module}", __name__), name)
    globals()[name] = value
    return value


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("overflowml")
    except metadata.PackageNotFoundError:
        return "0+source"


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
