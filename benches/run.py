"""Paired runs against other programs: the same weights, prompt and threads, the same hard memory limit, in turns.

Started by `cargo xtask bench`, which builds the command and installs the peers. Prints tables and writes
`target/bench/results.json`.
"""

import argparse
import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

BINARY = os.environ["OVERFLOWML_BIN"]
XTASK = os.environ["OVERFLOWML_XTASK"]
WORK = Path(os.environ["OVERFLOWML_BENCH_DIR"])
RUNNERS = Path(__file__).parent / "runners"
PROMPT = "A model that is larger than the memory it may use still has to answer"
GIB = 1 << 30


@dataclass
class Run:
    """One finished run of one program."""

    program: str
    limit: int
    token_seconds: float
    prefill_seconds: float
    read_per_token: int
    peak: int
    tokens: list[int]
    report: dict[str, Any] = field(repr=False, default_factory=dict)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="cargo xtask bench", description=__doc__.splitlines()[0])
    parser.add_argument("--params", default="3B", help="size of the model that is made (default 3B)")
    parser.add_argument("--limits", default="0,5.5,4,2,1", help="GiB, separated by commas; 0 is no limit")
    parser.add_argument("--peers", default="llama_cpp,accelerate_disk,airllm_cpu")
    parser.add_argument("--rounds", type=int, default=3, help="how often each program runs at each limit")
    parser.add_argument("--tokens", type=int, default=8, help="new tokens per run under a limit")
    parser.add_argument("--repeat", type=int, default=1, help="how often the prompt's sentence is repeated")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    return parser.parse_args()


def make_model(params: str) -> tuple[Path, Path]:
    """The model and its GGUF copy."""
    model = WORK / f"llama-{params}"
    subprocess.run([BINARY, "synth", model, "--arch", "llama", "--params", params], check=True)
    copy = WORK / f"llama-{params}.gguf"
    if not copy.exists():
        script = Path(__file__).with_name("gguf_copy.py")
        subprocess.run([sys.executable, script, model, copy.with_suffix(".part")], check=True)
        copy.with_suffix(".part").rename(copy)
    return model, copy


def forget_files() -> None:
    """Empties the page cache, so that no run profits from another's reads."""
    subprocess.run(["sync"], check=True)
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        print("the page cache cannot be emptied here: limits of peers are not honest", file=sys.stderr)


def limited(limit: int, words: list[Any]) -> subprocess.CompletedProcess[str]:
    """Runs a command, under a hard limit if there is one."""
    forget_files()
    before = [XTASK, "memcap", str(limit)] if limit else []
    return subprocess.run([*before, *map(str, words)], capture_output=True, text=True, check=False)


def own_run(model: Path, prompt: str, limit: int, tokens: int, threads: int) -> Run:
    """Ours."""
    words = [BINARY, "run", model, "--json", "--ignore-eos", "--temperature", 0, "--prompt", prompt]
    words += ["--max-new-tokens", tokens, "--threads", threads, *(["--memory", limit] if limit else [])]
    done = limited(limit, words)
    if done.returncode:
        sys.exit(f"overflowml failed at {limit}: {done.stderr}")
    report = json.loads(done.stdout)
    return Run(
        "overflowml",
        limit,
        1 / report["timings"]["decode_tokens_per_second"],
        report["timings"]["prefill_seconds"],
        report["io"]["streamed_per_pass_bytes"],
        report["memory"]["peak_rss_bytes"],
        report["tokens"],
        report,
    )


def peer_run(peer: str, files: Path, ids: list[int], limit: int, tokens: int, threads: int) -> Run | None:
    """A peer's; `None` if it does not get through."""
    work = WORK / peer
    work.mkdir(exist_ok=True)
    words = [sys.executable, RUNNERS / f"{peer}.py", files, "--prompt", ",".join(map(str, ids)), "--tokens", tokens]
    words += ["--threads", threads, "--memory", limit, "--work", work]
    done = limited(limit, words)
    if done.returncode:
        print(f"  {peer} at {size(limit)}: exit {done.returncode}: {done.stderr.strip()[-300:]}", file=sys.stderr)
        return None
    report = json.loads(done.stdout.strip().splitlines()[-1])
    # The first tokens still load what the system had not read yet.
    steady = report["token_seconds"][len(report["token_seconds"]) // 3 :]
    return Run(
        peer,
        limit,
        statistics.median(steady),
        report["prefill_seconds"],
        report["read_per_token_bytes"],
        report["peak_rss_bytes"],
        report["tokens"],
        report,
    )


def size(count: float) -> str:
    return f"{count / GIB:.2f} GiB" if count else "no limit"


def rounds(args: argparse.Namespace, model: Path, copy: Path, limit: int) -> Iterator[Run]:
    """All programs in turn, again and again."""
    prompt = PROMPT * args.repeat
    ids = Tokenizer.from_file(str(model / "tokenizer.json")).encode(prompt).ids
    tokens = args.tokens if limit else 4 * args.tokens
    for number in range(args.rounds):
        yield own_run(model, prompt, limit, tokens, args.threads)
        for peer in filter(None, args.peers.split(",")):
            # AirLLM is an order of magnitude slower: once is enough to see it.
            if peer == "airllm_cpu" and (number or not limit):
                continue
            files = copy if peer == "llama_cpp" else model
            run = peer_run(peer, files, ids, limit, tokens if peer != "airllm_cpu" else 3, args.threads)
            if run:
                yield run


def table(runs: list[Run], calibration: dict[str, Any]) -> None:
    """One line per program: medians, ratios of medians to ours, and our share of the physical limit."""
    programs = list(dict.fromkeys(run.program for run in runs))
    ours = statistics.median(run.token_seconds for run in runs if run.program == "overflowml")
    for program in programs:
        mine = [run for run in runs if run.program == program]
        token = statistics.median(run.token_seconds for run in mine)
        prefill = statistics.median(run.prefill_seconds for run in mine)
        line = f"  {program:<16} {token:8.3f} s/token  {mine[0].read_per_token / GIB:5.2f} GiB read/token"
        line += f"  prompt {prefill:7.2f} s"
        line += f"  peak {size(max(run.peak for run in mine)):>9}  {token / ours:6.2f} x ours"
        print(line)
    best = [run.report for run in runs if run.program == "overflowml"]
    for report in best:
        disk = report["io"]["read_bytes_per_second"] or 0
        streamed = report["plan"]["prediction"]["streamed_per_pass_bytes"]
        compute = report["plan"]["prediction"]["weights_per_pass_bytes"] / calibration["memory_bytes_per_second"]
        bound = max(compute, streamed / disk if disk else 0)
        speed = report["timings"]["decode_tokens_per_second"]
        predicted = report["timings"]["predicted_tokens_per_second"]
        memory = report["memory"]
        print(
            f"    {bound * speed:5.2f} of the limit (disk {disk / 1e9:.2f} GB/s), predicted speed / measured"
            f" {predicted / speed:5.2f}, predicted peak / measured"
            f" {memory['predicted_peak_bytes'] / memory['peak_rss_bytes']:5.3f}"
        )


def main() -> None:
    args = arguments()
    model, copy = make_model(args.params)
    calibrate = [BINARY, "bench", "--calibrate", "--model", model, "--json"]
    results = []
    same = True
    first: list[int] | None = None
    for limit in (int(float(word) * GIB) for word in args.limits.split(",")):
        calibration = json.loads(subprocess.run(calibrate, capture_output=True, check=True).stdout)
        print(f"{size(limit)}:", flush=True)
        runs = list(rounds(args, model, copy, limit))
        table(runs, calibration)
        results.append({"limit_bytes": limit, "calibration": calibration, "runs": [vars(run) for run in runs]})
        for run in (run for run in runs if run.program == "overflowml"):
            first = first or run.tokens
            same &= run.tokens[: args.tokens] == first[: args.tokens]
    print(f"our tokens are the same at every limit: {'yes' if same else 'NO'}")
    document = {"date": datetime.date.today().isoformat(), "machine": platform.platform(), "results": results}
    (WORK / "results.json").write_text(json.dumps(document, indent=1))
    shutil.rmtree(WORK / "airllm_cpu", ignore_errors=True)
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
