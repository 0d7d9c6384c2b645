"""`load_model`, `load_pipeline`: ordinary objects, without ever holding more of the model than the budget."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Sequence

from . import _native
from .errors import ModelError, refuse
from .sizes import Size
from .strategy import Strategy
from .strategy import strategy_of as describe

if TYPE_CHECKING:
    from .engine.device import Device
    from .hardware import HardwareProfile


def load_model(
    model_name: str,
    model_size_gb: float | None = None,
    hw: HardwareProfile | None = None,
    strategy: Strategy | None = None,
    *,
    model_class: Any = None,
    tokenizer: bool = True,
    prefer_speed: bool = True,
    allow_quantization: bool = False,
    trust_remote_code: bool = False,
    vram: Size | None = None,
    ram: Size | None = None,
    allow: Sequence[str] = ("exact",),
    activations: Size | None = None,
    device: Device | str | None = None,
    dtype: Any = "auto",
    verbose: bool = False,
    **from_pretrained: Any,
) -> Any:
    """A transformers model, ready to run within the memory there is; its weights come straight from its files.

    Returns `(model, tokenizer)`, or the model alone with ``tokenizer=False``. The model is what
    ``from_pretrained`` would have returned; `overflowml.strategy_of(model)` tells how it was placed.

    Args:
        model_name: a folder in the usual layout, or a hub id, which is downloaded if need be.
        model_class: such as `AutoModelForCausalLM`; by default the class that the configuration names.
        ram: the most host memory for weights and activations, such as ``"8GiB"``; by default what is free now.
        vram: the most device memory.
        dtype: of the parameters; ``"auto"`` is as stored. Another one is made on use.

    The other arguments are as in `optimize_model`; more are handed to `from_pretrained`.

    Raises:
        ModelError: files are missing, damaged, or belong to something else. Nothing stays half-loaded.
        Infeasible: not even the smallest arrangement fits; the message says what would.
    """
    from .loading.from_transformers import build_transformers
    from .loading.place import place_skeletons
    from .loading.skeleton import read_headers
    from .optimize import make_wish

    started = time.perf_counter()
    folder = _native.download(model_name)
    wish = make_wish(vram, ram, _allowed(allow, allow_quantization), activations, hw)
    stored = _only_component(read_headers(folder), model_name)
    chosen = model_class or _class_of(folder, trust_remote_code)
    arguments = {"dtype": dtype, **from_pretrained}
    if trust_remote_code:
        arguments["trust_remote_code"] = True
    skeleton = build_transformers(chosen, folder, "", stored, **arguments)
    placed = place_skeletons(skeleton.root, [(skeleton, _kind(skeleton.root))], wish, device)
    _finish(placed, started, verbose)
    if not tokenizer:
        return skeleton.root
    return skeleton.root, _tokenizer(folder, trust_remote_code)


def load_pipeline(
    pipeline_name: str,
    *,
    pipeline_class: Any = None,
    vram: Size | None = None,
    ram: Size | None = None,
    allow: Sequence[str] = ("exact",),
    activations: Size | None = None,
    steps: int = 28,
    device: Device | str | None = None,
    dtype: Any = None,
    trust_remote_code: bool = False,
    verbose: bool = False,
    **from_pretrained: Any,
) -> Any:
    """A diffusers pipeline, ready to run within the memory there is; its weights come straight from its files.

    Returns what ``DiffusionPipeline.from_pretrained`` would have; `overflowml.strategy_of(pipe)` tells how it was placed.

    Args:
        pipeline_name: a diffusers folder, or a hub id, which is downloaded if need be.
        pipeline_class: by default the class that the folder names.
        dtype: of the parameters; `None` is as stored.

    The other arguments, and what is raised, are as in `load_model`. Components that you pass by name are used as they are.
    """
    from .loading.pipeline import build_pipeline
    from .loading.place import place_skeletons
    from .optimize import make_wish

    started = time.perf_counter()
    folder = _native.download(pipeline_name)
    wish = make_wish(vram, ram, allow, activations, None)
    wish.task, wish.steps = "diffusion", steps
    pipe, skeletons = build_pipeline(folder, pipeline_class, dtype, trust_remote_code, from_pretrained)
    placed = place_skeletons(pipe, skeletons, wish, device)
    _finish(placed, started, verbose)
    return pipe


def strategy_of(obj: Any) -> Strategy | None:
    """How an optimised object was placed; `None` if it is not optimised."""
    from .engine.manager import manager_of

    manager = manager_of(obj)
    if manager is None or manager.placement is None:
        return None
    strategy = describe(manager.placement, _manager=manager)
    strategy.notes += manager.notes
    return strategy


def _allowed(allow: Sequence[str], quantization: bool) -> Sequence[str]:
    return tuple(dict.fromkeys([*allow, "fp8", "int8", "int4"])) if quantization else allow


def _only_component(components: dict[str, Any], name: str) -> Any:
    if len(components) != 1:
        raise refuse(
            ModelError, "python.is-a-pipeline", f"`{name}` has {len(components)} models: {', '.join(components)}",
            "use load_pipeline for a pipeline",
        )
    return next(iter(components.values()))


def _class_of(folder: str, trust_remote_code: bool) -> Any:
    """The class that the configuration names, or the best that transformers offers for it."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    for name in getattr(config, "architectures", None) or []:
        if hasattr(transformers, name):
            return getattr(transformers, name)
        if name.endswith("ForCausalLM"):
            return transformers.AutoModelForCausalLM
    return transformers.AutoModel


def _tokenizer(folder: str, trust_remote_code: bool) -> Any:
    import transformers

    return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)


def _kind(root: Any) -> str:
    from .optimize import kind_of_model

    return kind_of_model(root)


def _finish(placed: Strategy, started: float, verbose: bool) -> None:
    import sys

    assert placed._manager is not None
    placed._manager.load_seconds = time.perf_counter() - started
    if verbose:
        print(placed.summary(), file=sys.stderr)

