"""llama.cpp, as bundled with llama-cpp-python, on a memory-mapped GGUF file."""

import importlib.metadata
import sys
import time

# This file is named like the package that it runs.
sys.path.pop(0)
import llama_cpp  # noqa: E402
import numpy as np  # noqa: E402

sys.path.insert(0, __file__.rsplit("/", 1)[0])
from common import arguments, measure  # noqa: E402

args = arguments()
start = time.perf_counter()
model = llama_cpp.Llama(
    args.model,
    n_ctx=len(args.prompt) + args.tokens + 8,
    n_batch=512,
    n_threads=args.threads,
    n_threads_batch=args.threads,
    use_mmap=True,
    verbose=False,
)
vocab = model.n_vocab()


def step(tokens: list[int]) -> int:
    """Evaluates `tokens`; the likeliest next one."""
    model.eval(tokens)
    logits = llama_cpp.llama_get_logits_ith(model.ctx, -1)
    return int(np.ctypeslib.as_array(logits, (vocab,)).argmax())


version = importlib.metadata.version("llama-cpp-python")
loaded = time.perf_counter() - start
version = f"llama-cpp-python {version}"
measure(step, args.prompt, args.tokens, args.follow, load_seconds=loaded, version=version)
