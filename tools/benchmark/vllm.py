"""vLLM beside the others: a process of its own, in the environment that `tools/setup vllm` makes.

It is given our token ids and pixels (`ume_vllm`), so that nobody's tokenizer or resizing is
compared. One runner a process, as vLLM has one runner an instance. It sleeps while others compute.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from tools.benchmark.cases import Case, Sample, make_cases, make_rows
from tools.benchmark.child import ROOT, Child
from tools.benchmark.profiled import profiled

PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
_SETTINGS = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}


class Vllm(Child):
    """The process."""

    def __init__(self, directory: Path, dtype: str, *, full: bool) -> None:
        """Start it; the model is loaded by its first case.

        Args:
            directory: the checkpoint.
            dtype: of the weights.
            full: see `make_cases`.

        Raises:
            FileNotFoundError: `tools/setup vllm` has not been run.
        """
        given = json.dumps([str(directory), dtype, full])
        super().__init__(
            "vLLM", [PYTHON, "-m", "tools.benchmark.vllm", given],
            environment=os.environ | _SETTINGS,
        )  # fmt: skip

    def run(self, case: str, turn: int) -> tuple[float, Any]:
        """Seconds of a case, and its vectors; None for gen, whose tokens alone are made."""
        found = self.ask(case, turn, False)
        vectors = found["vectors"]
        return found["seconds"], None if vectors is None else np.array(vectors, dtype=np.float32)

    def profile(self, case: str, turn: int) -> dict[str, float]:
        """Where a case's time goes; see `profiled`."""
        return self.ask(case, turn, True)["profile"]


def _serve() -> None:
    """The process: a case a line, an answer a line."""
    from ume_core import load
    from ume_vllm.local import Instance
    from ume_vllm.options import VllmOptions

    answers, sys.stdout = sys.stdout, sys.stderr  # whatever libraries print is no answer
    directory, dtype, full = json.loads(sys.argv[1])
    embedder: Any = load(directory, engine="vllm", conventions="readme", dtype=dtype)
    generating = Instance(Path(directory), dtype, "generate", VllmOptions())
    for line in sys.stdin:
        name, turn, profile = json.loads(line)
        cases = [*make_cases(turn, full=full), *make_rows(turn)]
        case = next(c for c in cases if c.name == name)

        def run(case: Case = case) -> Any:
            if case.kind == "disc":
                return embedder.embed([s.item for s in case.samples]).vectors("disc").tolist()
            return _generate(embedder, generating, case)

        if profile:
            answer: dict[str, Any] = {"profile": profiled(run)}
        else:
            began = time.perf_counter()
            vectors = run()
            answer = {"seconds": time.perf_counter() - began, "vectors": vectors}
        print(json.dumps(answer), file=answers, flush=True)


def _generate(embedder: Any, instance: Any, case: Case) -> None:
    """Answers of the scripted lengths, of words that vLLM chooses greedily; no vectors."""
    from vllm import SamplingParams  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]

    def submit(sample: Sample, length: int) -> Any:
        prompt = embedder.prepared(sample.item, "gen", length)
        params = SamplingParams(
            temperature=0.0, max_tokens=length, ignore_eos=True, detokenize=False
        )
        return instance.submit(prompt, (), params)

    tickets = [submit(s, n) for s, n in zip(case.samples, case.lengths, strict=True)]
    while not all(ticket.done for ticket in tickets):
        instance.advance([ticket for ticket in tickets if not ticket.done])
    made = [len(ticket.ids) for ticket in tickets]
    if made != list(case.lengths):
        raise RuntimeError(f"vLLM wrote {made} tokens, not {case.lengths}")


if __name__ == "__main__":
    _serve()
