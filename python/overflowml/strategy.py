"""A strategy: how a model is made to fit, in the words users know, and what came of it."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from .engine.manager import Manager
    from .placement import Placement
    from .report import Report


class OffloadMode(str, enum.Enum):
    """Where weights live that are not on the device all the time."""

    NONE = "none"
    MODEL_CPU = "model_cpu"
    LAYER_HYBRID = "layer_hybrid"
    SEQUENTIAL_CPU = "sequential_cpu"
    EXPERT_OFFLOAD = "expert_offload"
    DISK = "disk"

    __str__ = str.__str__


class QuantMode(str, enum.Enum):
    """Precision of the weights as stored; `NONE` is the model's own."""

    NONE = "none"
    FP8 = "fp8"
    INT8 = "int8"
    INT4 = "int4"
    GGUF = "gguf"

    __str__ = str.__str__


_OFFLOAD_WORDS = {
    "none": "everything stays on the device",
    "model_cpu": "one model of the pipeline is on the device at a time",
    "layer_hybrid": "some blocks stay on the device, the others pass through slots",
    "sequential_cpu": "every block passes through slots on the device",
    "expert_offload": "experts are fetched when they are chosen",
    "disk": "weights are read from disk while the model runs",
}


@dataclass
class Strategy:
    """What was decided. Sizes in `_gb` are GiB, as GPU makers count.

    `report()` and `trace()` need a strategy that was applied: what `optimize_pipeline` and its like return.
    """

    offload: OffloadMode = OffloadMode.NONE
    quantization: QuantMode = QuantMode.NONE
    dtype: str = "bfloat16"
    compile: bool = False
    compile_mode: str = "default"
    attention_slicing: bool = False
    vae_slicing: bool = False
    vae_tiling: bool = False
    gc_between_steps: bool = False
    vram_threshold: float = 0.7
    estimated_vram_gb: float = 0.0
    estimated_ram_gb: float = 0.0
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rejected: list[dict[str, str]] = field(default_factory=list)
    placement: Placement | None = field(default=None, repr=False, compare=False)
    _manager: Manager | None = field(default=None, repr=False, compare=False)

    def summary(self) -> str:
        """The strategy in a few lines: what, why, and what to watch."""
        lines = [
            f"Offload: {self.offload} ({_OFFLOAD_WORDS[str(self.offload)]})",
            f"Quantization: {self.quantization}" + (" (weights as they are)" if self.quantization == "none" else ""),
            f"Dtype: {self.dtype}",
            f"Estimated peak VRAM: {self.estimated_vram_gb:.2f} GiB",
        ]
        if self.estimated_ram_gb:
            lines.append(f"Estimated peak RAM: {self.estimated_ram_gb:.2f} GiB")
        if self.placement is not None:
            lines += [f"  {line}" for line in _placement_lines(self.placement)]
        if self.vae_tiling or self.vae_slicing:
            kinds = [word for word, on in (("tiles", self.vae_tiling), ("slices", self.vae_slicing)) if on]
            lines.append(f"VAE decodes in {' and '.join(kinds)}")
        lines += [f"-> {note}" for note in self.notes]
        lines += [f"not chosen: {row['what']}: {row['why']}" for row in self.rejected]
        lines += [f"WARNING: {warning}" for warning in self.warnings]
        return "\n".join(lines)

    def report(self) -> Report:
        """What happened since: waits, bytes moved, peaks, predicted against measured."""
        if self._manager is None:
            raise ValueError("this strategy was only planned: report() belongs to the one that optimize_* or load_* returned")
        return self._manager.report()

    def trace(self, path: str) -> None:
        """Writes the last pass of each model to `path`, as a trace that opens in Perfetto (https://ui.perfetto.dev)."""
        self.report().write_trace(path)


def _placement_lines(placement: Placement) -> list[str]:
    lines = []
    for component in placement.components:
        flags = component.flags()
        where = {
            "resident": "stays on the device",
            "component": "on the device while it is used",
            "stream": f"{sum(flags)} of {len(flags)} blocks stay, the others pass through {component.slots} slots",
        }[component.mode]
        lines.append(f"{component.name or 'model'}: {where}")
    return lines


def strategy_of(placement: Placement, **more: Any) -> Strategy:
    """The strategy that a planner's answer amounts to."""
    words = placement.strategy
    return Strategy(
        offload=OffloadMode(words["offload"]),
        quantization=QuantMode(words["quantization"]),
        dtype=words["dtype"],
        vae_slicing=bool(placement.vae.get("slicing")),
        vae_tiling=bool(placement.vae.get("tiling")),
        gc_between_steps=words["offload"] != "none",
        estimated_vram_gb=placement.predicted["vram_peak_bytes"] / 2**30,
        estimated_ram_gb=placement.predicted["ram_peak_bytes"] / 2**30,
        warnings=list(placement.warnings),
        notes=list(placement.notes),
        rejected=list(placement.rejected),
        placement=placement,
        **more,
    )


__all__ = ["OffloadMode", "QuantMode", "Strategy", "strategy_of"]
