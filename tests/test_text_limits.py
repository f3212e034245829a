"""A text that is far too long is refused without being tokenized as a whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ume_nano
from ume_qwen.tokens import Tokenizer

MODEL = Path(ume_nano.__file__).parent / "model"
MILLION = {
    "letters": "a" * 1_000_000, "spaces": " " * 1_000_000, "line ends": "\n" * 1_000_000,
    "digits": "7" * 1_000_000, "emoji": "😀" * 300_000, "combining marks": "e" + "\u0301" * 400_000,
    "words": "the quick brown fox " * 50_000, "ideographs": "犬猫山川" * 250_000,
    "punctuation": "!?" * 500_000,
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(MODEL)


@pytest.mark.parametrize("kind", MILLION)
def test_only_a_text_that_is_really_too_long_is_called_so(kind: str, tokenizer: Tokenizer) -> None:
    text = MILLION[kind][:200_000]
    exact = len(tokenizer.encode(text))
    assert tokenizer.surely_more(text, exact) is None
    found = tokenizer.surely_more(text, exact // 10)
    assert found is not None and exact // 10 < found <= exact


def test_cuts_in_mixed_texts_do_not_refuse_what_fits(tokenizer: Tokenizer) -> None:
    rng = np.random.default_rng(0)
    alphabet = list("  \n\r\tabcdefghij0123456789'.,!?-_äßéяж犬猫\u0301😀")
    for _ in range(10):
        text = "".join(rng.choice(alphabet, 60_000))
        exact = len(tokenizer.encode(text))
        assert tokenizer.surely_more(text, exact) is None


REFUSAL = """
import resource, sys
from tests.test_text_limits import MILLION, MODEL
from ume_core import LimitExceeded, LoadOptions
from ume_core.items import as_item
from ume_qwen.checkpoint import find_checkpoint
from ume_qwen.prepare import Preparer

prepare = Preparer(find_checkpoint(MODEL), LoadOptions())
items = [as_item("x" + text[1:]) for text in MILLION.values()]
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before = peak()
for item in items:
    try:
        prepare(item, gen=False)
    except LimitExceeded as error:
        assert "tokens" in str(error), error
    else:
        raise SystemExit("a million characters were taken")
print(peak() - before)
"""


def test_refusing_a_million_characters_takes_little_memory() -> None:
    run = subprocess.run(
        [sys.executable, "-c", REFUSAL], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 100  # MB; it was 600 for ideographs
