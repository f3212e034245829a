"""Load and faults on `ume serve`, beside the server one writes first.

    python -m tools.load [--requests 50000] [--minutes 15] [--side 600] [--out tools/load/report]

Runs on loopback and ends: every phase has a number of requests. Each answer is compared with the
vector `embed` gave the same item; the report says how many were wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image as PILImage

import ume_core
from tools.load.client import Case, Tally, drive
from tools.load.report import write
from tools.load.servers import NAIVE, OURS, VLLM_PYTHON, Served, processor, served, vllm
from ume_core.items import Image, Item, Text
from ume_qwen.embedder import QwenEmbedder

WORDS = "red apple dog bus house tree cat moon ship bread camera castle left of above on a".split()
CLIENTS = 32
GEN_TOKENS = 24
WARM = 20  # requests before the first round
GEN_ANSWERS = 96  # of each side-by-side round: three for each client
ROUNDS = 5  # of what is compared; every second one in the other order
_SAMPLES = 50  # measurements of memory over the mixed run


def main() -> None:
    """Run all phases and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=50_000, help="of the mixed run")
    parser.add_argument("--minutes", type=float, default=15.0, help="most of the mixed run")
    parser.add_argument("--side", type=int, default=600, help="texts of each side-by-side round")
    parser.add_argument("--out", type=Path, default=Path("tools/load/report"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    log = Path(tempfile.mkdtemp()) / "servers.log"
    torch.set_num_threads(1)  # as the servers have
    print("offline vectors ...", flush=True)
    model = ume_core.load("ume-nano", engine="torch", device="cpu", dtype="float32")
    phases = Phases(args.out / "phases.json", vars(args) | {"out": ""})
    phases.run("busy", lambda: os.getloadavg()[0])
    texts = phrases(WARM + args.side * ROUNDS)
    disc = [Case("disc", body(input=t), v) for t, v in zip(texts, embed(model, texts), strict=True)]
    some = texts[:WARM] + texts[WARM :: max(1, args.side // GEN_ANSWERS)]
    answered = model.embed(some, mode="gen", max_new_tokens=GEN_TOKENS)
    gen = [
        Case("gen", body(input=t, mode="gen", max_new_tokens=GEN_TOKENS), v)
        for t, v in zip(some, answered.vectors("gen"), strict=True)
    ]
    as_long = [(t, r.generated_tokens) for t, r in zip(some, answered.records, strict=True)]
    mixed = mixture(model)
    phases.run("engine", lambda: engine(model, texts[: args.side]))
    phases.run("beside", lambda: beside(log, disc, gen, texts, as_long))

    def on_ours(measure: Callable[[Served], Any]) -> Any:
        with served(log, *OURS) as server:
            return measure(server)

    phases.run("interference", lambda: on_ours(lambda s: interference(s, disc, gen)))
    phases.run(
        "mixed", lambda: on_ours(lambda s: whole(s, mixed, disc, args.requests, args.minutes))
    )
    phases.run("kill", lambda: kill(log, disc, gen))
    found = phases.found | {"machine": processor()}
    write(args.out, found)
    phases.path.unlink()
    wrong = sum(part.get("wrong", 0) for part in parts(found))
    print(f"{wrong} wrong answers; report in {args.out}")
    sys.exit(1 if wrong else 0)


class Phases:
    """What was measured so far, kept on disk: a run that was stopped goes on with the rest.

    Attributes:
        path: where it is kept until the report is written.
        found: results by phase.
    """

    def __init__(self, path: Path, arguments: dict[str, Any]) -> None:
        self.path, self.found = path, {"arguments": arguments}
        if path.exists():
            kept = json.loads(path.read_text("utf-8"))
            if kept["arguments"] == arguments:
                self.found = kept

    def run(self, name: str, measure: Callable[[], Any]) -> None:
        """Measure one phase, unless that was done."""
        if name not in self.found:
            self.found[name] = measure()
            self.path.write_text(json.dumps(self.found), "utf-8")


def parts(found: Any) -> Iterator[dict[str, Any]]:
    """All tallies of the report."""
    if isinstance(found, dict):
        if "wrong" in found:
            yield found
        found = list(found.values())
    if isinstance(found, list):
        for value in cast("list[Any]", found):
            yield from parts(value)


def phrases(count: int) -> list[str]:
    """Distinct texts of three to thirty words."""
    rng = random.Random(0)
    return [f"{n} " + " ".join(rng.choices(WORDS, k=rng.randint(2, 29))) for n in range(count)]


def embed(model: Any, items: list[Any], mode: Any = "disc", **how: Any) -> Any:
    """Offline vectors."""
    return model.embed(items, mode=mode, **how).vectors("gen" if mode == "gen" else "disc")


def body(**values: Any) -> bytes:
    """A request's."""
    return json.dumps(values).encode()


def mixture(model: Any) -> list[Case]:
    """Texts, pictures, both, gen and damaged media, with what each must give."""
    rng, cases = np.random.default_rng(1), list[Case]()
    texts = phrases(300)
    encoding = {"encoding_format": "base64"}
    for text, vector in zip(texts, embed(model, texts), strict=True):
        cases.append(Case("text", body(input=text, **encoding), vector))
    for number in range(40):
        size = (int(rng.integers(28, 200)), int(rng.integers(28, 200)))
        noise = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
        out = io.BytesIO()
        PILImage.fromarray(noise).resize(size).save(out, "PNG")
        url = f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"
        picture = Image(out.getvalue())
        cases.append(
            Case("picture", body(input=[{"image": url}], **encoding), embed(model, [picture])[0])
        )
        both = model.embed([[picture, texts[number]]], mode="both", max_new_tokens=8)
        item = [{"image": url}, {"text": texts[number]}]
        made = body(input=[item], mode="both", max_new_tokens=8, **encoding)
        cases.append(Case("picture and text, both", made, both.disc[0], both.gen[0]))
        cut = f"data:image/png;base64,{base64.b64encode(out.getvalue()[:60]).decode()}"
        cases.append(Case("damaged", body(input=[{"image": cut}]), status=400))
    for text, vector in zip(
        texts[:40], embed(model, texts[:40], mode="gen", max_new_tokens=8), strict=True
    ):
        cases.append(
            Case("gen", body(input=text, mode="gen", max_new_tokens=8, **encoding), vector)
        )
    return cases


def summary(tally: Tally, kind: str | None = None) -> dict[str, Any]:
    """A tally in numbers."""
    return {
        "answers": tally.answers, "wrong": tally.wrong, "said": tally.said,
        "retried": tally.retried, "seconds": round(tally.took, 2),
        "per_second": round(tally.answers / tally.took, 1),
        "tokens_per_second": round(tally.tokens / tally.took, 1),
        "p50_ms": round(tally.percentile(50, kind), 1),
        "p99_ms": round(tally.percentile(99, kind), 1),
    }  # fmt: skip


def engine(model: Any, texts: list[str]) -> dict[str, list[float]]:
    """Disc items a second without HTTP, one a call and all in one call, in turn."""
    found: dict[str, list[float]] = {"alone": [], "together": []}
    for _ in range(ROUNDS):
        for name, calls in (("alone", [[t] for t in texts]), ("together", [texts])):
            began = time.perf_counter()
            for items in calls:
                model.embed(items)
            found[name].append(len(texts) / (time.perf_counter() - began))
    print(f"the engine alone: {found}", flush=True)
    return found


@dataclass(frozen=True)
class Side:
    """One server's endpoint, and what it is asked.

    Attributes:
        server: its name in the report.
        mode: `disc` or `gen`.
        port, path: where.
        cases: one round's.
    """

    server: str
    mode: str
    port: int
    path: str
    cases: list[Case]


def beside(
    log: Path, disc: list[Case], gen: list[Case], texts: list[str], as_long: list[tuple[str, int]]
) -> dict[str, list[dict[str, Any]]]:
    """Throughput of disc and of gen, all clients at once, the servers in turn.

    All servers are up from the first round to the last; those that are not asked wait.

    Returns:
        Rounds of every server's modes, by `server mode`; vLLM's where it is installed.
    """
    sides: list[Side] = []
    with ExitStack() as servers:
        for name, command in (("naive", NAIVE), ("ours", OURS)):
            port = servers.enter_context(served(log, *command)).port
            for mode, cases in (("disc", disc), ("gen", gen)):
                sides.append(Side(name, mode, port, "/v1/embeddings", cases))
        sides += sides_of_vllm(log, servers, texts, as_long)
        found: dict[str, list[dict[str, Any]]] = {}
        for side in sides:
            asyncio.run(drive(side.port, iter(side.cases[:WARM]), 8, path=side.path))
        for number in range(ROUNDS):
            for side in sides if number % 2 else sides[::-1]:
                # Never the same: vLLM keeps prefixes.
                cases = iter(side.cases[WARM + number :: ROUNDS])
                tally = asyncio.run(drive(side.port, cases, CLIENTS, path=side.path))
                key = f"{side.server} {side.mode}"
                found.setdefault(key, []).append(summary(tally))
                print(f"round {number + 1}, {key}: {found[key][-1]}", flush=True)
    return found


def sides_of_vllm(
    log: Path, servers: ExitStack, texts: list[str], as_long: list[tuple[str, int]]
) -> Iterator[Side]:
    """vLLM's own two servers; none where `tools/setup vllm` has not been run.

    Their embeddings are asked for with the token ids of our prompts up to `<disc_emb>`, without
    the blank picture, which has no token ids, and compared with `embed` under that convention.
    Their chat completions take the recipe's own texts and write as many tokens as we do.
    """
    if not Path(VLLM_PYTHON).exists():
        return
    model = ume_core.load(
        "ume-nano", engine="torch", device="cpu", dtype="float32", text_only="plain"
    )
    assert isinstance(model, QwenEmbedder)
    disc = [
        Case("disc", body(model="ume-nano", input=model.prepared(Item((Text(t),)), "disc", 0)
             .ids.tolist()), v)
        for t, v in zip(texts, embed(model, texts), strict=True)
    ]  # fmt: skip
    before, after = model.prepare.conventions.prompt.around_disc(True)
    gen = [
        Case("gen", body(
            model="ume-nano", max_tokens=length, ignore_eos=True, temperature=0,
            messages=[{"role": "user", "content": f"{t}{before}<disc_emb>{after}"}],
        ))
        for t, length in as_long
    ]  # fmt: skip
    for mode, runner, path, cases in (
        ("disc", "pooling", "/v1/embeddings", disc),
        ("gen", "generate", "/v1/chat/completions", gen),
    ):
        command = vllm(model.checkpoint.directory, runner)
        port = servers.enter_context(served(log, *command, python=VLLM_PYTHON)).port
        yield Side("vllm", mode, port, path, cases)


def interference(server: Served, disc: list[Case], gen: list[Case]) -> Any:
    """Disc alone, and the same while gen keeps the server busy, in turn."""
    long = [
        Case("gen", body(input=json.loads(c.body)["input"], mode="gen", lane="bulk",
                         max_new_tokens=100))
        for c in gen
    ]  # fmt: skip

    async def both() -> tuple[Tally, Tally]:
        stop = asyncio.Event()

        def bulk() -> Iterator[Case]:
            while not stop.is_set():
                yield from long

        background = asyncio.create_task(drive(server.port, bulk(), 16))
        await asyncio.sleep(2)
        measured = await drive(server.port, iter(disc[:600]), 2)
        stop.set()
        return measured, await background

    out: dict[str, list[dict[str, Any]]] = {"alone": [], "under_gen": [], "gen": []}
    for number in range(ROUNDS):
        out["alone"].append(summary(asyncio.run(drive(server.port, iter(disc[:600]), 2))))
        measured, background = asyncio.run(both())
        out["under_gen"].append(summary(measured))
        out["gen"].append(summary(background))
        print(f"interference, round {number + 1}: {[found[-1] for found in out.values()]}",
              flush=True)  # fmt: skip
    return out


def whole(server: Served, cases: list[Case], last: list[Case], count: int, minutes: float) -> Any:
    """The long run, memory measured on the way, with clients that vanish and read slowly."""
    tally, rng = Tally(), random.Random(2)
    memory: list[tuple[int, int]] = []
    rate: list[tuple[float, int]] = []
    began = time.perf_counter()

    async def one(number: int) -> None:
        vanishing = asyncio.create_task(vanish(server.port, cases, rng))
        await drive(server.port, iter(rng.choices(cases, k=number)), CLIENTS, tally=tally)
        await vanishing

    while tally.answers < count and time.perf_counter() - began < 60 * minutes:
        asyncio.run(one(max(1, min(count // _SAMPLES, count - tally.answers))))
        memory.append((tally.answers, server.rss))
        rate.append((time.perf_counter() - began, tally.answers))
        if len(memory) % 5 == 0:
            print(f"mixed: {tally.answers} of {count}, {tally.wrong} wrong, "
                  f"{memory[-1][1] >> 20} MiB", flush=True)  # fmt: skip
    kinds = {k: {"answers": len(v), "p50_ms": round(tally.percentile(50, k), 1),
                 "p99_ms": round(tally.percentile(99, k), 1)}
             for k, v in tally.seconds.items()}  # fmt: skip
    # After all that, the server still answers, and holds nothing.
    after = summary(asyncio.run(drive(server.port, iter(last[:200]), 4)))
    return summary(tally) | {"kinds": kinds, "memory": memory, "rate": rate, "after": after}


async def vanish(port: int, cases: list[Case], rng: random.Random) -> None:
    """Clients that hang up in the middle, and one that takes its answer byte by byte."""
    for case in rng.choices(cases, k=5):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = (
            f"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(case.body)}"
        )
        sent = case.body if rng.random() < 0.5 else case.body[: len(case.body) // 2]
        writer.write(head.encode() + b"\r\n\r\n" + sent)
        await writer.drain()
        await asyncio.sleep(rng.random() * 0.02)
        if rng.random() < 0.2:
            with suppress(TimeoutError, OSError):  # of half a request nothing comes
                await asyncio.wait_for(reader.read(1), 1)
        writer.close()


def kill(log: Path, disc: list[Case], gen: list[Case]) -> Any:
    """kill -9 in the middle, a restart on the same port, and clients that ask again."""
    rng = random.Random(3)
    cases = rng.choices([*disc, *gen], k=1500)
    tally = Tally()
    with served(log, *OURS) as first:
        port = first.port

        async def dying() -> None:
            sending = asyncio.create_task(drive(port, iter(cases), 16, patient=True, tally=tally))
            while tally.answers < 300:
                await asyncio.sleep(0.01)
            first.kill()
            await asyncio.to_thread(restarted, sending, port)

        def restarted(sending: asyncio.Task[Tally], port: int) -> None:
            with served(log, *OURS, port=port):
                while not sending.done():
                    time.sleep(0.05)

        asyncio.run(dying())
    out = summary(tally) | {"killed_after": 300}
    print(f"kill -9: {out}", flush=True)
    return out


if __name__ == "__main__":
    main()
