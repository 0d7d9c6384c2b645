"""diffusers models: built without data, then matched with the files by name, as diffusers does."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ..engine.recipe import Recorder
from .skeleton import Skeleton, Stored, stored_dtype


def build_diffusers(model_class: Any, folder: str, name: str, stored: Stored, dtype: torch.dtype | None = None) -> Skeleton:
    """`model_class.from_pretrained(folder, torch_dtype=dtype)`, without reading weights; `None` keeps the files' dtype."""
    dtype = stored_dtype(stored) if dtype is None else dtype
    config = model_class.load_config(folder)
    with _default_dtype(dtype), _parameters_without_data():
        root = model_class.from_config(config).eval()
    root.register_to_config(_name_or_path=folder)
    recorder = Recorder()
    state = {key: recorder.stand_in(tensor) for key, tensor in stored.tensors.items()}
    skeleton = Skeleton(name, root, stored.files, {})
    with recorder:
        if hasattr(root, "_fix_state_dict_keys_on_load"):
            root._fix_state_dict_keys_on_load(state)
        _assign(skeleton, state, recorder, dtype)
    skeleton.check_complete()
    return skeleton


def _assign(skeleton: Skeleton, state: dict[str, torch.Tensor], recorder: Recorder, dtype: torch.dtype) -> None:
    keep_in_f32 = set(getattr(skeleton.root, "_keep_in_fp32_modules", None) or ())
    for path, module in skeleton.root.named_modules():
        for store in (module._parameters, module._buffers):
            for key, member in store.items():
                full_name = f"{path}.{key}" if path else key
                if member is None or full_name not in state:
                    continue
                value = _cast(state[full_name], full_name, keep_in_f32, dtype)
                recipe = recorder.recipe(value)
                assert recipe is not None
                placed = nn.Parameter(value, requires_grad=False) if store is module._parameters else value
                store[key] = placed
                skeleton.recipes[id(placed)] = recipe
                skeleton.kept.append(placed)


def _cast(value: torch.Tensor, name: str, keep_in_f32: set[str], dtype: torch.dtype) -> torch.Tensor:
    """As diffusers casts while loading: only floating point, and some modules stay in 32 bits."""
    if not value.is_floating_point() or value.dtype == torch.float8_e4m3fn:
        return value
    if dtype == torch.float16 and keep_in_f32 & set(name.split(".")):
        return value.to(torch.float32)
    return value.to(dtype)


@contextlib.contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype if dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64) else torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def _parameters_without_data() -> Iterator[None]:
    """Modules made inside have parameters without data, and real buffers: those are computed, not loaded."""
    register = nn.Module.register_parameter

    def register_without_data(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        register(module, name, parameter)
        if parameter is not None:
            module._parameters[name] = nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)

    nn.Module.register_parameter = register_without_data  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
