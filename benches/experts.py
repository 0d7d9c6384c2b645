"""A mixture of experts under hard memory limits, paired with llama.cpp on the same weights.

Started by `cargo xtask bench --experts`. Both get the same prompt, a piece of real text, and are fed the same further
tokens: sampled ones, because the likeliest tokens of random weights repeat, and with them the experts that they
choose. Prints a table and writes `target/bench/experts.json`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from run import BINARY, GIB, RUNNERS, WORK, XTASK, forget_files
from tokenizers import Tokenizer

PROMPT = (
    "The lighthouse keeper counted the ships every evening, writing the number in a ledger that nobody else would "
    "ever read. On clear nights there were dozens, their lamps strung along the horizon like a second coastline; on "
    "foggy nights there were none, and he wrote a zero with the same care."
)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="cargo xtask bench --experts", description=__doc__.splitlines()[0])
    parser.add_argument("--params", default="3.2B", help="size of the model that is made (default 3.2B)")
    parser.add_argument("--limits", default="0,6,4,2,1", help="GiB, separated by commas; 0 is no limit")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--python", default=sys.executable, help="one that has llama-cpp-python")
    return parser.parse_args()


def make_model(params: str) -> tuple[Path, Path]:
    """The model and its GGUF copy."""
    model, copy = WORK / f"qwen3moe-{params}", WORK / f"qwen3moe-{params}.gguf"
    subprocess.run([BINARY, "synth", model, "--arch", "qwen3_moe", "--params", params, "--seed", "1"], check=True)
    if not copy.exists():
        subprocess.run([sys.executable, Path(__file__).with_name("gguf_copy.py"), model, copy], check=True)
    return model, copy


def under(limit: int, words: list[Any]) -> dict[str, Any] | None:
    """What a command prints, run under a hard limit if there is one; `None` if it was killed."""
    forget_files()
    before = [XTASK, "memcap", str(limit)] if limit else []
    done = subprocess.run([*before, *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(done.stderr[-500:], file=sys.stderr)
        return None
    return json.loads(done.stdout[done.stdout.index("{") :])


def ours(model: Path, limit: int, seed: int, args: argparse.Namespace) -> dict[str, Any] | None:
    words = [BINARY, "run", model, "--prompt", PROMPT, "--temperature", 1, "--seed", seed, "--ignore-eos", "--json"]
    words += ["--max-new-tokens", args.tokens, "--threads", args.threads]
    report = under(limit, words + (["--memory", limit] if limit else []))
    if report is None:
        return None
    experts = report["io"]["experts"]
    return {
        "rate": report["timings"]["decode_tokens_per_second"],
        "prefill": report["timings"]["prefill_seconds"],
        "read": experts["decode_read_bytes"] / (args.tokens - 1) if experts else 0,
        "hit_rate": experts and experts["decode_hit_rate"],
        "predicted": report["plan"]["prediction"]["experts"],
        "tokens": report["tokens"],
    }


def theirs(copy: Path, limit: int, tokens: list[int], args: argparse.Namespace) -> dict[str, Any] | None:
    prompt = Tokenizer.from_file(str(copy.with_suffix("") / "tokenizer.json")).encode(PROMPT).ids
    joined = ",".join
    words = [args.python, RUNNERS / "llama_cpp.py", copy, "--prompt", joined(map(str, prompt))]
    words += ["--tokens", len(tokens), "--threads", args.threads, "--follow", joined(map(str, tokens))]
    report = under(limit, words)
    if report is None:
        return None
    seconds = report["token_seconds"]
    return {
        "rate": len(seconds) / sum(seconds),
        "prefill": report["prefill_seconds"],
        "read": report["read_per_token_bytes"],
        "version": report["version"],
    }


def main() -> None:
    args = arguments()
    model, copy = make_model(args.params)
    results = []
    print("limit   tokens/s: ours  llama.cpp  ratio   prefill s: ours  theirs   MB/token: ours  theirs   hits")
    for limit in (round(float(limit) * GIB) for limit in args.limits.split(",")):
        pairs = []
        for seed in range(args.rounds):
            mine = ours(model, limit, seed, args)
            if mine and (other := theirs(copy, limit, mine["tokens"], args)):
                pairs.append((mine, other))
        results.append({"limit_bytes": limit, "pairs": pairs})
        if not pairs:
            print(f"{limit / GIB:5.1f}   did not finish")
            continue
        middle = lambda who, what: statistics.median(pair[who][what] for pair in pairs)  # noqa: E731
        ratio = statistics.median(mine["rate"] / other["rate"] for mine, other in pairs)
        hits = [mine["hit_rate"] for mine, _ in pairs if mine["hit_rate"] is not None]
        print(
            f"{limit / GIB:5.1f}{middle(0, 'rate'):16.2f}{middle(1, 'rate'):11.2f}{ratio:7.2f}"
            f"{middle(0, 'prefill'):18.2f}{middle(1, 'prefill'):8.2f}"
            f"{middle(0, 'read') / 1e6:17.0f}{middle(1, 'read') / 1e6:8.0f}"
            f"{statistics.median(hits) if hits else 1:7.0%}",
            flush=True,
        )
    (WORK / "experts.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
