"""Large random models on a GPU with little memory allowed: equal results, time per step, peaks, and the same for others.

Started by `cargo xtask gpu-check`, which says so and stops where there is no GPU. Models are made on the GPU, so nothing is
downloaded; it has to hold one of them whole, as the reference. `--quick` takes a few minutes; `--simulate` runs the whole
script with toy models on a stand-in device, to test the script itself.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

import overflowml
from overflowml.engine.device import AcceleratorDevice, host_slab
from overflowml.engine.simulated import SimulatedDevice
from overflowml.engine.stacks import module_bytes
from overflowml.sizes import show_size

GIB = 1 << 30


@dataclass
class Row:
    """One way to run one model."""

    model: str
    method: str
    budget_gib: float | None
    seconds_per_step: float = 0.0
    equal: bool | None = None
    peak_gib: float = 0.0
    reserved_gib: float = 0.0
    setup_seconds: float = 0.0
    streamed_gib_per_step: float = 0.0
    link_share: float | None = None
    """Streamed bytes per second, as a share of what one long copy from registered memory reaches."""
    host_waits_per_step: float | None = None
    error: str | None = None
    more: dict[str, Any] = field(default_factory=dict)


@dataclass
class Case:
    """A model, what one step of it is, and how much it weighs."""

    name: str
    model: nn.Module
    step: Callable[[], torch.Tensor]
    nbytes: int


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="cargo xtask gpu-check", description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="flux,language", help="which, separated by commas (default: flux,language)")
    parser.add_argument("--budgets", default="8,12,16", help="GiB of device memory allowed, separated by commas")
    parser.add_argument("--peers", default="model,group,sequential,accelerate", help="others to compare with; `none` for none")
    parser.add_argument("--flux-layers", default="19,38", help="double and single blocks (default: those of FLUX.1)")
    parser.add_argument("--language-layers", type=int, default=48, help="layers of the language model (48: 14.8 B)")
    parser.add_argument("--pixels", type=int, default=1024, help="height and width of the image")
    parser.add_argument("--new-tokens", type=int, default=8, help="tokens per step of the language model")
    parser.add_argument("--steps", type=int, default=3, help="timed steps per method")
    parser.add_argument("--quick", action="store_true", help="one budget (12), two steps, peers `group` only")
    parser.add_argument("--simulate", action="store_true", help="toy models on a stand-in device")
    parser.add_argument("--json", type=Path, default=Path("target/gpu-check.json"), help="where results go")
    options = parser.parse_args()
    if options.quick:
        options.budgets, options.steps, options.peers = "12", 2, "group"
    return options


class Bench:
    """The device, and how to time on it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.rows = options, []
        self.simulated = options.simulate
        self.device = SimulatedDevice(GIB) if options.simulate else AcceleratorDevice(torch.device("cuda", 0))
        self.ceiling = 0.0

    def measure_ceiling(self) -> float:
        """Bytes per second of one long copy from registered memory."""
        nbytes = (4 << 20) if self.simulated else GIB
        source, target = host_slab(nbytes).fill_(1), self.device.allocate(nbytes)
        pinned = self.device.pin(source)
        rates = []
        for _ in range(4):
            self.device.synchronize()
            started = time.perf_counter()
            self.device.copy(target, source, None)
            self.device.synchronize()
            rates.append(nbytes / (time.perf_counter() - started))
        self.device.unpin(source)
        self.ceiling = max(rates)
        print(f"ceiling: {self.ceiling / 1e9:.2f} GB/s from registered memory (registered: {pinned})", flush=True)
        return self.ceiling

    def timed(self, case: Case, row: Row, reference: torch.Tensor | None, steps: int | None = None, warm: int = 2) -> torch.Tensor:
        """Runs `case` as it is now and fills `row`. The first steps are not timed."""
        for _ in range(warm):
            output = case.step()
        self.device.synchronize()
        self.device.reset_peak()
        waits = self.device.traffic.host_blocks
        steps = steps or self.options.steps
        started = time.perf_counter()
        for _ in range(steps):
            output = case.step()
        row.host_waits_per_step = (self.device.traffic.host_blocks - waits) / steps
        self.device.synchronize()
        row.seconds_per_step = (time.perf_counter() - started) / steps
        row.peak_gib = self.device.peak() / GIB
        if not self.simulated:
            row.reserved_gib = torch.cuda.max_memory_reserved() / GIB
        result = output.cpu()
        row.equal = None if reference is None else torch.equal(result, reference)
        return result

    def add(self, row: Row) -> None:
        self.rows.append(row)
        print(shown(row), flush=True)
        self.options.json.parent.mkdir(parents=True, exist_ok=True)
        rows = [asdict(row) for row in self.rows]
        report = {"device": self.name(), "torch": torch.__version__, "ceiling_bytes_per_second": self.ceiling, "rows": rows}
        self.options.json.write_text(json.dumps(report, indent=1))

    def name(self) -> str:
        return "simulated" if self.simulated else torch.cuda.get_device_name(0)

    @contextlib.contextmanager
    def guarded(self, row: Row) -> Iterator[None]:
        """Records a failure in `row` instead of ending the whole check."""
        try:
            yield
        except Exception as error:
            row.error = f"{type(error).__name__}: {str(error).splitlines()[0][:300]}"
        gc.collect()
        self.device.release_cache()
        self.add(row)


def shown(row: Row) -> str:
    if row.error:
        return f"{row.model:9} {row.method:24} {row.budget_gib or '':>5}  {row.error}"
    link = f"{row.link_share:5.2f} of link" if row.link_share is not None else ""
    return (
        f"{row.model:9} {row.method:24} {row.budget_gib or '':>5}  {row.seconds_per_step:9.4f} s/step  equal {row.equal!s:5} "
        f"peak {row.peak_gib:6.2f} GiB (reserved {row.reserved_gib:6.2f})  set up in {row.setup_seconds:5.1f} s  {link}"
    )


@contextlib.contextmanager
def built_on(where: str, dtype: torch.dtype) -> Iterator[None]:
    """Models made inside are made on `where`, of `dtype`."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(where):
            yield
    finally:
        torch.set_default_dtype(before)


def flux_case(bench: Bench) -> Case:
    from diffusers import FluxTransformer2DModel

    toy = bench.simulated
    double, single = (2, 3) if toy else map(int, bench.options.flux_layers.split(","))
    heads, head = (2, 16) if toy else (24, 128)
    joint, axes = (32, (4, 4, 8)) if toy else (4096, (16, 56, 56))
    where, dtype = ("cpu", torch.float32) if toy else ("cuda", torch.bfloat16)
    torch.manual_seed(0)
    with built_on(where, dtype):
        model = FluxTransformer2DModel(
            num_layers=double, num_single_layers=single, num_attention_heads=heads, attention_head_dim=head, joint_attention_dim=joint,
            pooled_projection_dim=32 if toy else 768, guidance_embeds=True, axes_dims_rope=axes,
        ).eval()
        side = 4 if toy else bench.options.pixels // 16
        words = 8 if toy else 512
        image, text = torch.randn(1, side * side, 64), torch.randn(1, words, joint)
        pooled, guidance = torch.randn(1, 32 if toy else 768), torch.full((1,), 3.5, dtype=torch.float32)
        ids = torch.zeros(side * side, 3)
        ids[:, 1], ids[:, 2] = torch.arange(side * side) // side, torch.arange(side * side) % side
        inputs = {
            "hidden_states": image, "encoder_hidden_states": text, "pooled_projections": pooled, "timestep": torch.full((1,), 0.5),
            "guidance": guidance, "img_ids": ids, "txt_ids": torch.zeros(words, 3), "return_dict": False,
        }

    @torch.no_grad()
    def step() -> torch.Tensor:
        return model(**inputs)[0]

    return Case("flux", model, step, module_bytes(model))


def language_case(bench: Bench) -> Case:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    toy = bench.simulated
    config = Qwen2Config(
        hidden_size=64 if toy else 5120, intermediate_size=128 if toy else 13824, num_attention_heads=4 if toy else 40,
        num_hidden_layers=6 if toy else bench.options.language_layers, num_key_value_heads=2 if toy else 8,
        vocab_size=512 if toy else 152064, tie_word_embeddings=False,
    )
    where, dtype = ("cpu", torch.float32) if toy else ("cuda", torch.bfloat16)
    torch.manual_seed(0)
    with built_on(where, dtype):
        model = Qwen2ForCausalLM(config).eval()
        prompt = torch.randint(0, config.vocab_size, (1, 64))
    new = bench.options.new_tokens

    @torch.no_grad()
    def step() -> torch.Tensor:
        return model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0
        )

    return Case("language", model, step, module_bytes(model))


def check(bench: Bench, case: Case) -> None:
    """All methods on one model."""
    print(f"\n{case.name}: {show_size(case.nbytes)} of weights", flush=True)
    row = Row(case.name, "all resident", None)
    with bench.guarded(row):
        reference = bench.timed(case, row, None)
    if row.error:
        return
    resident = row.seconds_per_step
    row = Row(case.name, "overflowml, all fits", None)
    with bench.guarded(row):
        overflowml.optimize_model(case.model, device=bench.device)
        bench.timed(case, row, reference)
        row.more["overhead"] = row.seconds_per_step / resident - 1
        overflowml.restore(case.model)
    for budget in bench.options.budgets.split(","):
        within_budget(bench, case, budget_bytes(bench, case, budget), reference)
    compare_with_peers(bench, case, reference)


def budget_bytes(bench: Bench, case: Case, budget: str) -> int:
    """GiB, or with toys the same share of the model as of FLUX.1."""
    return int(case.nbytes * float(budget) / 20) if bench.simulated else int(float(budget) * GIB)


def within_budget(bench: Bench, case: Case, budget: int, reference: torch.Tensor) -> None:
    row = Row(case.name, "overflowml", round(budget / GIB, 6))
    with bench.guarded(row):
        started = time.perf_counter()
        strategy = overflowml.optimize_model(
            case.model, device=bench.device, vram=budget, activations=0 if bench.simulated else None
        )
        row.setup_seconds = time.perf_counter() - started
        bench.timed(case, row, reference, warm=3)
        report = strategy.report()
        streamed = report.components[0].streamed_bytes_per_pass
        passes = bench.options.new_tokens if case.name == "language" else 1
        row.streamed_gib_per_step = streamed * passes / GIB
        row.link_share = streamed * passes / row.seconds_per_step / bench.ceiling
        row.more = {
            "waited_share": report.components[0].wait_seconds / max(report.components[0].seconds_last_pass, 1e-9),
            "within_budget": row.peak_gib * GIB <= budget, "late_blocks": report.components[0].misses,
            "streamed_blocks": report.components[0].streamed_blocks, "blocks": report.components[0].blocks,
            "weights_back_bytes": report.from_device_bytes, "summary": strategy.summary(),
        }
    overflowml.restore(case.model)


def compare_with_peers(bench: Bench, case: Case, reference: torch.Tensor) -> None:
    peers = {"model": model_offload, "group": group_offload, "sequential": sequential_offload, "accelerate": device_map}
    wanted = [name for name in bench.options.peers.split(",") if name in peers]
    if bench.simulated or not wanted:
        return
    case.model.to("cpu")
    bench.device.release_cache()
    for name in wanted:
        peers[name](bench, case, reference)
        gc.collect()
        bench.device.release_cache()


def model_offload(bench: Bench, case: Case, reference: torch.Tensor) -> None:
    """What `enable_model_cpu_offload` does with one model: there and back for each run."""
    row = Row(case.name, "model offload (1 step)", None)
    with bench.guarded(row):
        from accelerate import cpu_offload_with_hook
        from accelerate.hooks import remove_hook_from_module

        _, hook = cpu_offload_with_hook(case.model, "cuda:0")

        def step() -> torch.Tensor:
            output = plain()
            hook.offload()
            return output

        plain, case.step = case.step, step
        try:
            bench.timed(case, row, reference, steps=1, warm=0)
        finally:
            case.step = plain
            remove_hook_from_module(case.model, recurse=True)
            case.model.to("cpu")


def group_offload(bench: Bench, case: Case, reference: torch.Tensor) -> None:
    """diffusers' group offload with a stream, block by block where the blocks are the model's own children."""
    row = Row(case.name, "diffusers group, stream", None)
    with bench.guarded(row):
        from diffusers.hooks import HookRegistry, apply_group_offloading

        kind = "block_level" if case.name == "flux" else "leaf_level"
        blocks = {"num_blocks_per_group": 1} if kind == "block_level" else {}
        started = time.perf_counter()
        apply_group_offloading(
            case.model, onload_device=torch.device("cuda:0"), offload_device=torch.device("cpu"), offload_type=kind, use_stream=True,
            **blocks,
        )
        row.setup_seconds = time.perf_counter() - started
        try:
            bench.timed(case, row, reference)
        finally:
            for module in case.model.modules():
                if hasattr(module, "_diffusers_hook"):
                    registry = HookRegistry.check_if_exists_or_initialize(module)
                    for hook in list(registry.hooks):
                        registry.remove_hook(hook, recurse=False)
            case.model.to("cpu")


def sequential_offload(bench: Bench, case: Case, reference: torch.Tensor) -> None:
    """accelerate's `cpu_offload`, which `enable_sequential_cpu_offload` is."""
    row = Row(case.name, "sequential (accelerate)", None)
    with bench.guarded(row):
        from accelerate import cpu_offload
        from accelerate.hooks import remove_hook_from_module

        cpu_offload(case.model, torch.device("cuda:0"))
        try:
            bench.timed(case, row, reference, steps=1, warm=1)
        finally:
            remove_hook_from_module(case.model, recurse=True)
            case.model.to("cpu")


def device_map(bench: Bench, case: Case, reference: torch.Tensor) -> None:
    """accelerate's `device_map="auto"` with the same budgets, a margin for activations taken off."""
    from accelerate import dispatch_model, infer_auto_device_map
    from accelerate.hooks import remove_hook_from_module

    for budget in bench.options.budgets.split(","):
        row = Row(case.name, "accelerate device_map", float(budget))
        with bench.guarded(row):
            split = [type(block).__name__ for module in case.model.modules() if isinstance(module, nn.ModuleList) for block in module]
            limits = {0: int((float(budget) - 2) * GIB), "cpu": 200 * GIB}
            where = infer_auto_device_map(case.model, limits, no_split_module_classes=sorted(set(split)))
            dispatch_model(case.model, where, main_device=0)
            try:
                bench.timed(case, row, reference, steps=1, warm=1)
            finally:
                remove_hook_from_module(case.model, recurse=True)
                case.model.to("cpu")


def main() -> int:
    options = arguments()
    if not options.simulate and not torch.cuda.is_available():
        print("skipped: torch finds no GPU here (try --simulate)")
        return 0
    bench = Bench(options)
    print(f"{bench.name()}, torch {torch.__version__}", flush=True)
    bench.measure_ceiling()
    makers = {"flux": flux_case, "language": language_case}
    for name in options.models.split(","):
        try:
            case = makers[name](bench)
        except ImportError as missing:
            print(f"{name}: skipped, {missing}")
            continue
        check(bench, case)
        del case
        gc.collect()
        bench.device.release_cache()
    print("\n" + "\n".join(shown(row) for row in bench.rows))
    print(f"written to {options.json}")
    return 0 if all(row.equal is not False for row in bench.rows) else 1


if __name__ == "__main__":
    sys.exit(main())
