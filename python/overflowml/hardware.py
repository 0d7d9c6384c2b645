"""`detect_hardware` and `HardwareProfile`: what the machine is, as the Rust core finds it. No torch, no GPU context."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass, field
from typing import Any

from . import _native

GIB = 1 << 30


class Accelerator(str, enum.Enum):
    """Who computes."""

    CUDA = "cuda"
    ROCM = "rocm"
    XPU = "xpu"
    MPS = "mps"
    MLX = "mlx"
    CPU = "cpu"

    __str__ = str.__str__


_VENDORS = {"nvidia": Accelerator.CUDA, "amd": Accelerator.ROCM, "intel": Accelerator.XPU, "apple": Accelerator.MPS}


@dataclass
class HardwareProfile:
    """A machine. Sizes in `_gb` are GiB, as GPU makers count; with several GPUs, the smallest counts."""

    accelerator: Accelerator = Accelerator.CPU
    gpu_name: str = ""
    gpu_vram_gb: float = 0.0
    gpu_compute_capability: tuple[int, int] | None = None
    system_ram_gb: float = 0.0
    unified_memory: bool = False
    os: str = ""
    cpu_cores: int = 0
    supports_bf16: bool = False
    supports_fp8: bool = False
    num_gpus: int = 0
    gpu_names: list[str] = field(default_factory=list)
    gpu_vram_gbs: list[float] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    document: dict[str, Any] | None = field(default=None, repr=False, compare=False)
    """Everything that `overflowml detect --json` knows, with where each number comes from."""

    @property
    def total_gpu_vram_gb(self) -> float:
        return sum(self.gpu_vram_gbs) or self.gpu_vram_gb

    @property
    def overflow_gb(self) -> float:
        """Main memory that weights can overflow to: what is left of it beside the system."""
        return 0.0 if self.unified_memory else max(0.0, self.system_ram_gb - 16)

    @property
    def effective_memory_gb(self) -> float:
        """The largest model that this machine holds without a disk."""
        return 0.75 * self.system_ram_gb if self.unified_memory else self.total_gpu_vram_gb + self.overflow_gb

    def summary(self) -> str:
        """A few lines of text."""
        lines = [f"Accelerator: {self.accelerator}"]
        if self.gpu_name:
            lines.append(f"GPU: {self.gpu_name} ({self.gpu_vram_gb:.0f}GB VRAM)")
        lines.append(f"System RAM: {self.system_ram_gb:.0f}GB")
        if self.unified_memory:
            lines.append(f"Unified memory: {self.effective_memory_gb:.0f}GB for models")
        else:
            lines.append(f"Overflow capacity: {self.overflow_gb:.0f}GB (total effective: {self.effective_memory_gb:.0f}GB)")
        lines.append(f"BF16: {_yes(self.supports_bf16)} | FP8: {_yes(self.supports_fp8)}")
        return "\n".join(lines)


def detect_hardware(prefer_mlx: bool = False) -> HardwareProfile:
    """The machine that this runs on.

    Args:
        prefer_mlx: name `mlx` as the accelerator of an Apple machine.
    """
    document = json.loads(_native.detect())
    gpus = document.get("gpus") or []
    profile = HardwareProfile(
        system_ram_gb=_gib(document["memory"]["total_bytes"]),
        os=document.get("os", ""),
        cpu_cores=int(_value(document["cpu"].get("logical")) or _value(document["cpu"].get("usable")) or 0),
        num_gpus=len(gpus),
        gpu_names=[gpu.get("name") or "" for gpu in gpus],
        gpu_vram_gbs=[_gib(gpu.get("total_bytes")) for gpu in gpus],
        document=document,
    )
    chosen = min(gpus, key=lambda gpu: _gib(gpu.get("total_bytes")), default=None)
    _describe_computing(profile, chosen, (chosen or document["cpu"]).get("supports") or {}, prefer_mlx)
    return profile


def _describe_computing(profile: HardwareProfile, gpu: dict[str, Any] | None, supports: dict[str, Any], prefer_mlx: bool) -> None:
    if gpu is not None:
        profile.accelerator = _VENDORS.get(gpu.get("vendor", ""), Accelerator.CPU)
        if profile.accelerator is Accelerator.MPS and prefer_mlx:
            profile.accelerator = Accelerator.MLX
        profile.gpu_name, profile.gpu_vram_gb = gpu.get("name") or "", _gib(gpu.get("total_bytes"))
        capability = gpu.get("compute_capability")
        profile.gpu_compute_capability = (int(capability[0]), int(capability[1])) if capability else None
        profile.unified_memory = gpu.get("pool", "own") != "own"
    profile.supports_bf16 = bool((supports.get("bf16") or {}).get("compute"))
    profile.supports_fp8 = bool((supports.get("fp8") or {}).get("compute"))


def _value(known: Any) -> Any:
    return known.get("value") if isinstance(known, dict) else known


def _gib(known: Any) -> float:
    return float(_value(known) or 0) / GIB


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"
