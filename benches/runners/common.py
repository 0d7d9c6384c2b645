"""What the runners of all peers share: greedy decoding by token ids, timed per token."""

import argparse
import json
import time
from collections.abc import Callable


def arguments() -> argparse.Namespace:
    """The flags that every runner takes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--prompt", required=True, help="token ids, separated by commas")
    parser.add_argument("--tokens", type=int, required=True, help="how many to generate")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory", type=int, default=0, help="bytes that may be used; 0: no limit")
    parser.add_argument("--work", default=".", help="a folder for the runner's own files")
    parser.add_argument("--follow", default="", help="token ids to feed instead of the likeliest ones")
    parsed = parser.parse_args()
    parsed.prompt = [int(token) for token in parsed.prompt.split(",")]
    parsed.follow = [int(token) for token in parsed.follow.split(",") if token]
    return parsed


def measure(
    step: Callable[[list[int]], int], prompt: list[int], count: int, follow: list[int] | None = None, **facts: object
) -> None:
    """Feeds `prompt`, then one token at a time, and prints what happened as one line of JSON.

    `step` takes the next tokens of the sequence and returns the likeliest one after them; that is fed
    next, or what `follow` says.
    """
    start = time.perf_counter()
    tokens = [step(prompt)]
    prefill = time.perf_counter() - start
    before, seconds = bytes_read(), []
    while len(tokens) < count:
        start = time.perf_counter()
        tokens.append(step([follow[len(tokens) - 1]] if follow else tokens[-1:]))
        seconds.append(time.perf_counter() - start)
    decoded = max(1, len(seconds))
    report = {
        "tokens": tokens,
        "prefill_seconds": prefill,
        "token_seconds": seconds,
        "read_per_token_bytes": (bytes_read() - before) // decoded,
        "peak_rss_bytes": peak_rss(),
        **facts,
    }
    print(json.dumps(report), flush=True)


def bytes_read() -> int:
    """What this process has caused to be read from disk so far."""
    with open("/proc/self/io") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("read_bytes"))


def peak_rss() -> int:
    """The most memory that this process ever held."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
