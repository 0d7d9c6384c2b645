"""diffusers pipelines make the same pictures whatever memory they are allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import overflowml
import pytest
import tiny_pipelines as tiny
import torch
from overflowml.engine.simulated import SimulatedDevice
from torch import nn


def weights(pipe: Any) -> int:
    models = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
    return sum(parameter.numel() * parameter.element_size() for model in models for parameter in model.parameters())


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_same_pictures_on_a_device_of_any_size(family: str) -> None:
    made = tiny.make(family)
    expected, total = made.run(), weights(made.pipe)
    offloads = []
    for share in (0.4, 0.9, 2.0):
        device = SimulatedDevice(3 * total)
        try:
            strategy = overflowml.optimize_pipeline(made.pipe, device=device, vram=int(share * total), activations=0)
        except overflowml.Infeasible:
            continue
        offloads.append(str(strategy.offload))
        assert torch.equal(made.run(), expected)
        assert device.peak() <= share * total
        assert device.traffic.from_device_bytes == device.traffic.host_blocks == 0
        overflowml.restore(made.pipe)
    assert torch.equal(made.run(), expected)
    assert len(offloads) >= 2 and offloads[-1] == "none"


@pytest.mark.parametrize("family", [name for name in tiny.FAMILIES if "lora" not in name])
def test_the_same_pictures_from_disk_in_any_memory(family: str, tmp_path: Path) -> None:
    made = tiny.make(family)
    expected, total = made.run(), weights(made.pipe)
    made.pipe.save_pretrained(tmp_path)
    fitted = 0
    for share in (0.6, 1.2):
        try:
            pipe = overflowml.load_pipeline(
                str(tmp_path), ram=int(share * total), activations=0, device="cpu", pipeline_class=type(made.pipe)
            )
        except overflowml.Infeasible:
            continue
        fitted += 1
        pipe.set_progress_bar_config(disable=True)
        loaded = tiny.Tiny(pipe, made.arguments)
        assert torch.equal(loaded.run(), expected)
    assert fitted


def test_text_encoders_leave_before_the_denoiser_comes() -> None:
    made = tiny.make("sdxl")
    total = weights(made.pipe)
    device = SimulatedDevice(3 * total)
    strategy = overflowml.optimize_pipeline(made.pipe, device=device, vram=int(0.9 * total), activations=0)
    assert strategy.offload == "model_cpu"
    made.run()
    active = {component.name for component in strategy._manager.components if component.active}
    assert "text_encoder" not in active and "vae" in active


def test_two_pipelines_at_once_do_not_disturb_each_other() -> None:
    first, second = tiny.make("flux"), tiny.make("sd3")
    expected = first.run(), second.run()
    for made in (first, second):
        total = weights(made.pipe)
        overflowml.optimize_pipeline(made.pipe, device=SimulatedDevice(3 * total), vram=int(0.95 * total), activations=0)
    for _ in range(2):
        assert torch.equal(first.run(), expected[0])
        assert torch.equal(second.run(), expected[1])


def test_an_adapter_loaded_afterwards_is_used() -> None:
    from peft import LoraConfig

    def adapt(pipe: Any) -> None:
        torch.manual_seed(5)
        pipe.transformer.add_adapter(LoraConfig(r=4, target_modules=["to_q"], init_lora_weights=False), "late")

    plain = tiny.make("flux")
    adapt(plain.pipe)
    expected = plain.run()
    made = tiny.make("flux")
    total = weights(made.pipe)
    overflowml.optimize_pipeline(made.pipe, device=SimulatedDevice(3 * total), vram=int(0.4 * total), activations=0)
    assert not torch.equal(made.run(), expected)
    adapt(made.pipe)
    assert torch.equal(made.run(), expected)
    overflowml.restore(made.pipe)
    assert torch.equal(made.run(), expected)


def test_an_optimised_pipeline_saves_what_a_plain_one_saves(tmp_path: Path) -> None:
    made = tiny.make("flux")
    total = weights(made.pipe)
    made.pipe.save_pretrained(tmp_path / "plain")
    overflowml.optimize_pipeline(made.pipe, device=SimulatedDevice(3 * total), vram=int(0.4 * total), activations=0)
    made.run()
    made.pipe.save_pretrained(tmp_path / "optimised")
    for file in sorted((tmp_path / "plain").rglob("*.safetensors")):
        assert file.read_bytes() == (tmp_path / "optimised" / file.relative_to(tmp_path / "plain")).read_bytes()


def test_a_pipeline_moved_to_a_device_stays_where_it_was_placed() -> None:
    made = tiny.make("sd1")
    expected, total = made.run(), weights(made.pipe)
    overflowml.optimize_pipeline(made.pipe, device=SimulatedDevice(3 * total), vram=int(0.5 * total), activations=0)
    assert made.pipe.to("cpu") is made.pipe
    with pytest.raises(overflowml.InUse, match="dtype"):
        made.pipe.to(torch.float16)
    assert torch.equal(made.run(), expected)


def test_a_folder_that_is_no_pipeline_is_refused_in_words(tmp_path: Path) -> None:
    tiny.clip_text().save_pretrained(tmp_path)
    with pytest.raises(overflowml.ModelError, match="no diffusers pipeline"):
        overflowml.load_pipeline(str(tmp_path), device="cpu")
