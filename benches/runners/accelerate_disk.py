"""transformers with accelerate's disk offload: what fits below the budget stays, the rest is read."""

import importlib.metadata
import time

import torch
from common import arguments, measure
from transformers import AutoModelForCausalLM

# Python, torch and one layer on its way; found by trying: less is killed under a hard limit.
OVERHEAD = 1200 << 20

args = arguments()
torch.set_num_threads(args.threads)
start = time.perf_counter()
options = {}
if args.memory:
    room = {"cpu": max(args.memory - OVERHEAD, 1 << 20)}
    options = {"device_map": "auto", "max_memory": room, "offload_folder": args.work}
model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.bfloat16, **options)
model.eval()
cache = None


@torch.no_grad()
def step(tokens: list[int]) -> int:
    """Evaluates `tokens`; the likeliest next one."""
    global cache
    out = model(torch.tensor([tokens]), past_key_values=cache, use_cache=True, logits_to_keep=1)
    cache = out.past_key_values
    return int(out.logits[0, -1].argmax())


versions = " ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers", "accelerate"))
measure(step, args.prompt, args.tokens, load_seconds=time.perf_counter() - start, version=versions)
