"""What the tests of the package share: small models, made here, and devices that are not there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session", autouse=True)
def quiet() -> None:
    """Libraries say little, and torch computes with two threads, so that figures do not depend on the machine."""
    try:
        import torch
        import transformers

        torch.set_num_threads(min(2, torch.get_num_threads()))
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        import diffusers

        diffusers.utils.logging.set_verbosity_error()
        diffusers.utils.logging.disable_progress_bar()
    except ImportError:
        pass


@pytest.fixture
def llama() -> Any:
    """A decoder of eight equal layers with a large vocabulary, in 32 bits."""
    import tiny_transformers

    return tiny_transformers.make("llama")


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[Any], str]:
    """Saves a model and says where."""

    def save(model: Any) -> str:
        model.save_pretrained(tmp_path / "model")
        return str(tmp_path / "model")

    return save
