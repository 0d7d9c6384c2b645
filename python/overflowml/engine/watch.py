"""Notices when modules get new parameters or children anywhere in the process: an adapter being loaded, a layer swapped.

torch calls these hooks on registration only, so watching costs nothing while models run.
"""

from __future__ import annotations

from typing import Any

from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

_generation = 0
_watching = False


def members_changed() -> int:
    """A number that grows whenever any module gets a parameter, a buffer or a child."""
    global _watching
    if not _watching:
        _watching = True
        register_module_parameter_registration_hook(_note)
        register_module_buffer_registration_hook(_note)
        register_module_module_registration_hook(_note)
    return _generation


def _note(_module: Any, _name: str, _value: Any) -> None:
    global _generation
    _generation += 1
