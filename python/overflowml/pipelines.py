"""What is particular to diffusers pipelines: their models, where they think they run, how their VAE decodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .engine.disguise import computes_on
from .strategy import Strategy

if TYPE_CHECKING:
    from .engine.manager import Manager

_DENOISERS = ("transformer", "unet", "controlnet", "prior", "decoder", "t2i_adapter", "motion_adapter", "adapter")
"""Models that run in every step, next to each other."""


def models_of(pipe: Any) -> list[tuple[str, Any, str]] | None:
    """(name, module, kind) of every torch model of a pipeline; `None` if the object has no components."""
    from torch import nn

    components = getattr(pipe, "components", None)
    if isinstance(pipe, nn.Module) or not isinstance(components, dict):
        return None
    found = []
    for name, part in components.items():
        if isinstance(part, nn.Module):
            found.append((name, part, kind_of_component(name, part)))
        elif isinstance(part, (list, tuple)):
            found += [(f"{name}.{i}", p, kind_of_component(name, p)) for i, p in enumerate(part) if isinstance(p, nn.Module)]
    distinct = {id(module): (name, module, kind) for name, module, kind in reversed(found)}
    return list(reversed(distinct.values())) or None


def kind_of_component(name: str, module: Any) -> str:
    """What a pipeline's model does, by its name there."""
    if name.startswith(_DENOISERS):
        return "denoiser"
    if name.startswith(("vae", "vqvae", "vqgan", "movq", "audio_vae")) or "Autoencoder" in type(module).__name__:
        return "vae"
    if "text_encoder" in name or "text_model" in name:
        return "text_encoder"
    return "other"


def adopt_pipeline(pipe: Any, manager: Manager, strategy: Strategy) -> None:
    """Has the pipeline believe that it runs on the device, and its VAE decode in pieces if the plan says so."""
    manager.undo.append(computes_on(pipe, manager.device.where, to=_stay))
    vae = getattr(pipe, "vae", None)
    for wanted, name in ((strategy.vae_tiling, "tiling"), (strategy.vae_slicing, "slicing")):
        if wanted and hasattr(vae, f"enable_{name}") and not getattr(vae, f"use_{name}", False):
            getattr(vae, f"enable_{name}")()
            manager.undo.append(getattr(vae, f"disable_{name}"))


def _stay(pipe: Any, *args: Any, **kwargs: Any) -> Any:
    """`pipe.to(...)` of an optimised pipeline: weights are placed already, so a device alone changes nothing."""
    import torch

    from .errors import InUse, refuse

    dtype = kwargs.get("dtype") or kwargs.get("torch_dtype") or next((a for a in args if isinstance(a, torch.dtype)), None)
    if dtype is not None and any(dtype != c.root.dtype for c in pipe.__dict__["_overflowml_manager"].components):
        raise refuse(
            InUse, "python.in-use", "an optimised pipeline cannot change its dtype",
            "call overflowml.restore(pipe), change it, and optimise again",
        )
    return pipe


def compile_blocks(pipe: Any) -> None:
    """Compiles the repeated blocks of the denoiser, which is what pays and what streaming goes well with."""
    for name in ("transformer", "transformer_2", "unet"):
        model = getattr(pipe, name, None)
        if hasattr(model, "compile_repeated_blocks") and getattr(model, "_repeated_blocks", None):
            model.compile_repeated_blocks()
