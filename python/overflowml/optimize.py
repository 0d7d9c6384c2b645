"""`optimize_pipeline`, `optimize_model`, `restore`: one line around any torch model."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Sequence

from .errors import UnsupportedObject, refuse
from .sizes import Size, optional_size
from .strategy import Strategy, strategy_of

if TYPE_CHECKING:
    from .engine.device import Device
    from .engine.takeover import Subject, Wish
    from .hardware import HardwareProfile


def optimize_model(
    model: Any,
    model_size_gb: float | None = None,
    hw: HardwareProfile | None = None,
    strategy: Strategy | None = None,
    *,
    vram: Size | None = None,
    ram: Size | None = None,
    allow: Sequence[str] = ("exact",),
    activations: Size | None = None,
    device: Device | str | None = None,
    spill: bool | str = False,
    verbose: bool = False,
) -> Strategy:
    """Makes `model` run within the memory there is, with the same results, bit for bit.

    Args:
        model: any `torch.nn.Module`. Calling it works as before; inputs may stay on the host.
        model_size_gb: not needed any more: the size is the model's own.
        hw: plan for this machine's memory instead of what is free now.
        strategy: one from `pick_strategy`; its budget applies where none is given here.
        vram: the most device memory to use, such as ``"8GiB"``; by default what is free now.
        ram: the most host memory to use for weights.
        allow: precisions that may be used: ``"exact"``, ``"fp8"``, ``"int8"``, ``"int4"``. Only `exact` keeps the bits.
        activations: device memory that one pass needs beside weights, if you know it; else estimated, then measured.
        device: ``"cuda:1"`` and the like, ``"cpu"``, or a `Device`; by default the accelerator, if there is one.
        spill: without an accelerator, and with `ram` smaller than the model: move weights to a temporary file, in this folder
            if it is a path, and stream them from there.
        verbose: print the strategy to stderr.

    Raises:
        Infeasible: not even the smallest arrangement fits; the message says what would.
        UnsupportedObject: not a torch module.
    """
    from torch import nn

    if not isinstance(model, nn.Module):
        raise refuse(
            UnsupportedObject, "python.unsupported-object", f"a {type(model).__name__} is not a torch module",
            "pass a torch.nn.Module, or a diffusers pipeline to optimize_pipeline",
        )
    wish = make_wish(vram, ram, allow, activations, hw)
    return _optimize(model, [("", model, kind_of_model(model))], wish, device, spill, verbose)


def optimize_pipeline(
    pipe: Any,
    model_size_gb: float | None = None,
    hw: HardwareProfile | None = None,
    strategy: Strategy | None = None,
    *,
    prefer_speed: bool = True,
    allow_quantization: bool = False,
    compile: bool | None = None,
    vram: Size | None = None,
    ram: Size | None = None,
    allow: Sequence[str] = ("exact",),
    activations: Size | None = None,
    steps: int = 28,
    device: Device | str | None = None,
    spill: bool | str = False,
    verbose: bool = False,
) -> Strategy:
    """Makes a diffusers pipeline run within the memory there is, with the same images, bit for bit.

    Text encoders leave the device before the denoiser runs; the denoiser's blocks stay as far as they fit and pass through
    slots otherwise. An object without components, such as a bare transformer, is treated by `optimize_model`.

    Args:
        prefer_speed: kept for old callers; the fastest arrangement that fits is always chosen.
        allow_quantization: allow ``fp8``, ``int8`` and ``int4`` weights where nothing exact fits.
        compile: compile the denoiser's repeated blocks with `torch.compile`; off by default.
        steps: denoising steps of a typical run, for weighing what is worth staying.

    The other arguments, and what is raised, are as in `optimize_model`.
    """
    from .pipelines import models_of

    found = models_of(pipe)
    if found is None:
        return optimize_model(
            pipe, model_size_gb, hw, strategy, vram=vram, ram=ram, allow=allow, activations=activations, device=device, spill=spill, verbose=verbose
        )
    if allow_quantization:
        allow = tuple(dict.fromkeys([*allow, "fp8", "int8", "int4"]))
    wish = make_wish(vram, ram, allow, activations, hw)
    wish.task, wish.steps = "diffusion", steps
    applied = _optimize(pipe, found, wish, device, spill, verbose)
    if compile:
        from .pipelines import compile_blocks

        compile_blocks(pipe)
        applied.compile = True
    return applied


def restore(obj: Any) -> None:
    """Undoes `optimize_model` or `optimize_pipeline`: the same parameters, on the device where they were, no hooks.

    Does nothing for an object that is not optimised.
    """
    if "torch" in sys.modules:
        from .engine.takeover import restore as undo

        undo(obj)


def make_wish(
    vram: Size | None, ram: Size | None, allow: Sequence[str], activations: Size | None, hw: HardwareProfile | None
) -> Wish:
    """The caller's arguments, checked."""
    from .engine.takeover import Wish

    unknown = set(allow) - {"exact", "fp8", "int8", "int4"}
    if unknown:
        raise ValueError(f"`allow` knows exact, fp8, int8 and int4, not {', '.join(sorted(map(str, unknown)))}")
    if vram is None and hw is not None and hw.gpu_vram_gb:
        vram = int(hw.gpu_vram_gb * 2**30)
    return Wish(
        optional_size(vram, "vram"), optional_size(ram, "ram"), allow=list(allow), activations=optional_size(activations, "activations")
    )


def _optimize(
    owner: Any, models: list[tuple[str, Any, str]], wish: Wish, device: Device | str | None, spill: bool | str, verbose: bool
) -> Strategy:
    from .engine.takeover import restore as undo

    undo(owner)
    for _, module, _ in models:
        undo(module)
    started = time.perf_counter()
    chosen = choose_device(device)
    if chosen is None:
        from .hostside import optimize_on_host

        strategy = optimize_on_host(owner, models, wish, spill)
    else:
        strategy = _apply(owner, models, wish, chosen)
    assert strategy._manager is not None
    strategy._manager.load_seconds = time.perf_counter() - started
    if verbose:
        print(strategy.summary(), file=sys.stderr)
    return strategy


def _apply(owner: Any, models: list[tuple[str, Any, str]], wish: Wish, device: Device) -> Strategy:
    from .engine.adapt import adapt_residency
    from .engine.manager import Manager
    from .engine.takeover import budget_of, examine, question, take_over
    from .placement import place
    from .progress import Progress

    subjects = [examine(name, module, kind, wish) for name, module, kind in models]
    request = question(subjects, device, wish)
    placement = place(request)
    manager = Manager(device, placement=placement, request=request, budget_bytes=budget_of(request))
    strategy = strategy_of(placement, _manager=manager)
    total = sum(subject.anatomy.fixed.nbytes + sum(b.nbytes for b in subject.anatomy.blocks()) for subject in subjects)
    try:
        with Progress(total, "taking over weights", wish.progress) as progress:
            for subject in _evictable_first(subjects, placement):
                component = take_over(subject, placement.of(subject.name), device, manager, progress)
                manager.undo.append(component.send_back)
                manager.undo.append(component.detach)
    except BaseException:
        manager.restore()
        raise
    adapt_residency(manager)
    strategy.notes += manager.notes
    finish_owner(owner, manager, strategy)
    return strategy


def _evictable_first(subjects: list[Subject], placement: Any) -> list[Subject]:
    """Models that leave the device are moved to the host first: what stays then finds room."""
    return sorted(subjects, key=lambda subject: placement.of(subject.name).mode == "resident")


def finish_owner(owner: Any, manager: Any, strategy: Strategy) -> None:
    """What is left to do once all models of `owner` are managed; undoes everything if it fails."""
    from torch import nn

    from .engine.manager import forget, remember
    from .pipelines import adopt_pipeline

    remember(owner, manager)
    try:
        if isinstance(owner, nn.Module):
            # On the device now: a budget that does not hold is better told here than in the first call.
            manager.components[0].ensure_active()
        else:
            adopt_pipeline(owner, manager, strategy)
    except BaseException:
        manager.restore()
        forget(owner)
        raise


def choose_device(device: Device | str | None) -> Device | None:
    """The device to compute on; `None` is the host."""
    import torch

    from .engine.device import AcceleratorDevice, accelerator

    if device is None:
        return accelerator()
    if isinstance(device, (str, torch.device)):
        where = torch.device(device)
        return None if where.type in ("cpu", "mps") else AcceleratorDevice(where)
    return device


def kind_of_model(model: Any) -> str:
    """Denoiser, text encoder, VAE or language model, by what the class is called and can do."""
    name = type(model).__name__
    if "Autoencoder" in name or name.endswith("VAE"):
        return "vae"
    if "Transformer2D" in name or "Transformer3D" in name or name.startswith("UNet") or "ControlNet" in name:
        return "denoiser"
    if hasattr(model, "lm_head") or "CausalLM" in name or "ConditionalGeneration" in name:
        return "language_model"
    if "TextModel" in name or name.endswith("EncoderModel"):
        return "text_encoder"
    return "other"
