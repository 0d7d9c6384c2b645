"""AirLLM on the processor: layer by layer from a split copy of the model."""

import contextlib
import importlib.metadata
import sys
import time

import torch
from common import arguments, measure

args = arguments()
torch.set_num_threads(args.threads)
start = time.perf_counter()
with contextlib.redirect_stdout(sys.stderr):
    from airllm import AutoModel

    air = AutoModel.from_pretrained(args.model, device="cpu", layer_shards_saving_path=args.work)
cache = None


@torch.no_grad()
def step(tokens: list[int]) -> int:
    """Evaluates `tokens`; the likeliest next one."""
    global cache
    with contextlib.redirect_stdout(sys.stderr):
        out = air.model(torch.tensor([tokens]), past_key_values=cache, use_cache=True)
    cache = out.past_key_values
    return int(out.logits[0, -1].argmax())


version = importlib.metadata.version("airllm")
measure(step, args.prompt, args.tokens, load_seconds=time.perf_counter() - start, version=f"airllm {version}")
