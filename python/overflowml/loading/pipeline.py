"""diffusers pipelines: each model is built without weights, the rest is loaded as usual."""

from __future__ import annotations

import importlib
import json
import os
from typing import Any

from torch import nn

from ..errors import ModelError, refuse
from ..pipelines import kind_of_component
from .from_diffusers import build_diffusers
from .from_transformers import build_transformers
from .skeleton import Skeleton, read_headers, stored_dtype


def build_pipeline(
    folder: str, pipeline_class: Any, dtype: Any, trust_remote_code: bool, given: dict[str, Any]
) -> tuple[Any, list[tuple[Skeleton, str]]]:
    """The pipeline, and its models that have no weights yet with the kind of each."""
    import diffusers

    components = read_headers(folder)
    skeletons: list[tuple[Skeleton, str]] = []
    models: dict[str, Any] = {}
    for name, class_ in _model_classes(folder).items():
        if name in given or name not in components:
            continue
        skeleton = _build(class_, os.path.join(folder, name), name, components[name], dtype)
        models[name] = skeleton.root
        skeletons.append((skeleton, kind_of_component(name, skeleton.root)))
    chosen = pipeline_class or diffusers.DiffusionPipeline
    extra = {"trust_remote_code": True} if trust_remote_code else {}
    pipe = chosen.from_pretrained(folder, **{**models, **given, **extra})
    return pipe, skeletons


def _build(class_: Any, folder: str, name: str, stored: Any, dtype: Any) -> Skeleton:
    wanted = dtype.get(name, dtype.get("default")) if isinstance(dtype, dict) else dtype
    if class_.__module__.startswith("transformers"):
        return build_transformers(class_, folder, name, stored, dtype=wanted if wanted is not None else stored_dtype(stored))
    return build_diffusers(class_, folder, name, stored, wanted)


def _model_classes(folder: str) -> dict[str, Any]:
    """Name and class of each torch model that `model_index.json` lists."""
    path = os.path.join(folder, "model_index.json")
    try:
        with open(path, encoding="utf-8") as file:
            index = json.load(file)
    except (OSError, ValueError) as error:
        raise refuse(ModelError, "python.no-pipeline", f"`{folder}` is no diffusers pipeline: {error}", "use load_model for one model") from error
    found = {}
    for name, entry in index.items():
        if isinstance(entry, list) and len(entry) == 2 and all(isinstance(word, str) for word in entry):
            class_ = _class(*entry)
            if isinstance(class_, type) and issubclass(class_, nn.Module):
                found[name] = class_
    return found


def _class(library: str, name: str) -> Any:
    import diffusers

    if library in ("diffusers", "transformers"):
        return getattr(importlib.import_module(library), name, None)
    return getattr(getattr(diffusers.pipelines, library, None), name, None)
