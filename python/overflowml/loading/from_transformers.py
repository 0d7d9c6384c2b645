"""transformers models: its own loading code runs, on tensors without data, and is written down.

So renamed keys, fused experts, tied weights, casts and buffers that are computed come out exactly as transformers makes
them, whatever it does for a family.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Any

from ..engine.recipe import Recipe, Recorder
from ..errors import ModelError, refuse
from .skeleton import Skeleton, Stored

_patching = threading.Lock()


def build_transformers(model_class: Any, folder: str, name: str, stored: Stored, **arguments: Any) -> Skeleton:
    """`model_class.from_pretrained(folder, **arguments)`, without reading weights."""
    recorder = Recorder()
    recipes: dict[str, Recipe | None] = {}
    with _recording(recorder, recipes, stored):
        root = model_class.from_pretrained(folder, use_safetensors=True, **arguments)
    skeleton = Skeleton(name, root, stored.files, {})
    for full_name, recipe in recipes.items():
        tensor = _member(root, full_name)
        if recipe is not None and tensor is not None and tensor.device.type == "meta":
            skeleton.recipes[id(tensor)] = recipe
            skeleton.kept.append(tensor)
    skeleton.check_complete()
    return skeleton


def _member(root: Any, full_name: str) -> Any:
    path, _, key = full_name.rpartition(".")
    module = root.get_submodule(path)
    tensor = module._parameters.get(key)
    return module._buffers.get(key) if tensor is None else tensor


@contextlib.contextmanager
def _recording(recorder: Recorder, recipes: dict[str, Recipe | None], stored: Stored) -> Iterator[None]:
    """While inside, transformers' loader is given tensors without data, and what it makes of them is noted."""
    modeling, loading = _loader_modules()
    load, put = modeling.convert_and_load_state_dict_in_model, loading.set_param_for_module

    def load_without_data(model: Any, state_dict: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        stand_ins = {key: recorder.stand_in(stored.tensors[key]) for key in state_dict if key in stored.tensors}
        with recorder:
            return load(model, stand_ins, *args, **kwargs)

    def put_and_note(model: Any, target: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        recipes[target] = recorder.recipe(value)
        return put(model, target, value, *args, **kwargs)

    before = os.environ.get("HF_DEACTIVATE_ASYNC_LOAD")
    with _patching:
        # In this thread, where the recorder sees it.
        os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"
        modeling.convert_and_load_state_dict_in_model, loading.set_param_for_module = load_without_data, put_and_note
        try:
            yield
        finally:
            modeling.convert_and_load_state_dict_in_model, loading.set_param_for_module = load, put
            if before is None:
                del os.environ["HF_DEACTIVATE_ASYNC_LOAD"]
            else:
                os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = before


def _loader_modules() -> tuple[Any, Any]:
    try:
        import transformers.core_model_loading as loading
        import transformers.modeling_utils as modeling
    except ImportError as missing:
        raise refuse(
            ModelError, "python.transformers-too-old", f"loading without holding the model needs transformers 5: {missing}",
            "pip install -U 'transformers>=5', or load it as usual and call optimize_model",
        ) from missing
    return modeling, loading
