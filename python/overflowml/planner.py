"""`plan`, `can_run`, `inspect_model`, `doctor`, `pick_strategy`: the command's answers, as Python values."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass, field
from typing import Any

from . import _native
from .errors import Infeasible, refuse
from .hardware import HardwareProfile
from .sizes import Size, parse_size
from .strategy import OffloadMode, QuantMode, Strategy

GIB = 1 << 30


@dataclass
class CanRunResult:
    """A yes or no, and why. True in a condition if it runs."""

    ok: bool
    reason: str
    recommended_strategy: str | None
    document: dict[str, Any] = field(default_factory=dict, repr=False)

    def __bool__(self) -> bool:
        return self.ok


def plan(model_or_size: str | float, hw: HardwareProfile | None = None, **options: Any) -> dict[str, Any]:
    """The document of ``overflowml plan --json`` for a folder, file, hub id, or a size in GB.

    Args:
        hw: the machine to plan for; by default this one.
        options: the command's flags with ``_`` for ``-``: ``vram="8GiB"``, ``ram="32GiB"``, ``gpu="rtx 4090"``, ``context=8192``,
            ``no_quantize=True`` and so on.
    """
    with _hardware_options(hw, options) as flags:
        return dict(json.loads(_native.plan(_subject(model_or_size), json.dumps(flags))))


def can_run(
    model_or_size: str | float, hw: HardwareProfile | None = None, *, max_offload: str | None = None, **options: Any
) -> CanRunResult:
    """Whether a model runs on this machine, or on `hw`; ``max_offload`` is the slowest arrangement that counts as yes."""
    with _hardware_options(hw, {**options, "max_offload": max_offload}) as flags:
        document = json.loads(_native.can_run(_subject(model_or_size), json.dumps(flags)))
    return CanRunResult(bool(document["ok"]), document.get("reason") or "", document.get("recommended_strategy"), document)


def inspect_model(model: str) -> dict[str, Any]:
    """The document of ``overflowml inspect --json``: architecture, parameters, sizes. No weights are read."""
    return dict(json.loads(_native.inspect(model)))


def doctor(model: str | None = None) -> dict[str, Any]:
    """The document of ``overflowml doctor --json``: what is wrong with this machine's setup, with a fix for each."""
    return dict(json.loads(_native.doctor(model)))


def pick_strategy(
    hw: HardwareProfile | None,
    model_size_gb: float,
    *,
    prefer_speed: bool = True,
    allow_quantization: bool = True,
    force_offload: OffloadMode | str | None = None,
    force_quant: QuantMode | str | None = None,
    vram: Size | None = None,
    ram: Size | None = None,
) -> Strategy:
    """The strategy for a model of which only the size is known, on `hw` or, with `None`, on this machine.

    Args:
        prefer_speed: prefer smaller precisions where they are faster.
        force_offload: take this way of offloading, or say why not.
        force_quant: take this precision, or say why not.

    Raises:
        Infeasible: nothing fits, or what is forced does not.
    """
    if model_size_gb <= 0:
        raise ValueError(f"model_size_gb has to be positive, not {model_size_gb}")
    document = plan(
        model_size_gb, hw, no_quantize=not allow_quantization and force_quant is None, fast=prefer_speed and allow_quantization,
        vram=vram, ram=ram,
    )
    if force_offload is None and force_quant is None:
        candidate = document.get("recommended")
    else:
        wanted = {key: str(value) for key, value in (("offload", force_offload), ("quantization", force_quant)) if value is not None}
        candidate = next((c for c in document["strategies"] if all(c[key] == value for key, value in wanted.items())), None)
    if candidate is None:
        raise refuse(Infeasible, "python.infeasible", f"a model of {model_size_gb:g} GB: " + _why_not(document, force_offload, force_quant))
    return _strategy(candidate, document)


def _strategy(candidate: dict[str, Any], document: dict[str, Any]) -> Strategy:
    memory = candidate["memory"]
    device = memory.get("device_bytes") or {}
    quantization = candidate["quantization"]
    known = {mode.value for mode in QuantMode}
    return Strategy(
        offload=OffloadMode(candidate["offload"]),
        quantization=QuantMode(quantization if quantization in known else "none"),
        vae_tiling=bool(candidate.get("tiled_vae")),
        gc_between_steps=candidate["offload"] != "none",
        estimated_vram_gb=float(device.get("expected", 0)) / GIB,
        estimated_ram_gb=float((memory.get("host_bytes") or {}).get("expected", 0)) / GIB,
        warnings=[_text(warning) for warning in document.get("warnings") or []],
        notes=[line.strip() for line in document.get("explanation") or [] if line.split(maxsplit=1)[0] not in _TOLD_ELSEWHERE],
        rejected=[
            {"what": f"{row['offload']} {row['quantization']}", "why": row["reason"]}
            for row in document.get("rejected") or []
            if row.get("code") != "pointless"
        ],
    )


_TOLD_ELSEWHERE = {"why", "trap", "hint"}
"""Lines of the explanation that a strategy has in lists of their own."""


def _why_not(document: dict[str, Any], offload: Any, quant: Any) -> str:
    for row in document.get("rejected") or []:
        if (offload is None or row["offload"] == str(offload)) and (quant is None or row["quantization"] == str(quant)):
            return str(row["reason"])
    return " ".join(document.get("explanation") or ["nothing fits"])


def _text(warning: Any) -> str:
    if isinstance(warning, dict):
        return str(warning.get("text") or warning.get("message") or warning.get("title") or warning)
    return str(warning)


def _subject(model_or_size: str | float) -> str:
    return f"{model_or_size:g}" if isinstance(model_or_size, (int, float)) else str(model_or_size)


class _hardware_options:  # noqa: N801
    """The command's flags for a machine: a file for one that was detected, sizes for one that was described."""

    def __init__(self, hw: HardwareProfile | None, options: dict[str, Any]) -> None:
        self._hw = hw
        self._options = {key: _flag(key, value) for key, value in options.items() if value is not None and value is not False}
        self._file: str | None = None

    def __enter__(self) -> dict[str, Any]:
        hw = self._hw
        if hw is None or {"gpu", "hardware"} & set(self._options):
            return self._options
        if hw.document is not None:
            handle, self._file = tempfile.mkstemp(suffix=".json", prefix="overflowml-hardware-")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(hw.document, file)
            return {**self._options, "hardware": self._file}
        described = {"ram": f"{hw.system_ram_gb:g}GiB", "os": _os_name(hw.os)}
        if hw.gpu_name:
            described["gpu"] = hw.gpu_name
        if hw.gpu_vram_gb:
            described["vram"] = f"{hw.gpu_vram_gb:g}GiB"
        return {**{key: value for key, value in described.items() if value}, **self._options}

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            os.unlink(self._file)


def _flag(key: str, value: Any) -> Any:
    return f"{parse_size(value, key)}B" if key in ("vram", "ram", "memory") and isinstance(value, int) and value is not True else value


def _os_name(name: str) -> str:
    lower = name.lower()
    return "macos" if lower in ("darwin", "macos") else lower
