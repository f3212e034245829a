"""Which prompts start next, and what changes when memory runs short. No tensors here.

A prompt *waits* until `admit` takes it, then its rows *run*; it is *done* when all of them have
left, or *failed* when it did not fit even alone. A prompt with several samples may run in parts.
When memory runs short, rows start again from their prompt and one of three bounds is lowered:

- `rows`, the answers that run together, halves when a decoding step fails;
- `prompts`, the prompts of one prefill, halves when a prefill of several fails;
- `rows_for_now` keeps others from joining when a prefill fails beside running rows.

The last two are restored when nothing runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ume_core.embedder import Sampling
from ume_qwen.render import RenderedPrompt
from ume_qwen.thinking import StopRules


@dataclass(frozen=True)
class Asked:
    """What is asked for one prompt.

    Attributes:
        number: the caller's number for the prompt.
        prompt: the prompt.
        rules: how its answers end.
        sampling: how tokens are chosen, and how many answers are wanted; None is one, greedy.
        beginning: the given beginning of every answer.
    """

    number: int
    prompt: RenderedPrompt
    rules: StopRules
    sampling: Sampling | None = None
    beginning: tuple[int, ...] = ()

    @property
    def samples(self) -> int:
        """How many answers are wanted."""
        return self.sampling.n if self.sampling is not None else 1


@dataclass
class Entry:
    """A prompt, or a part of its samples.

    Attributes:
        asked: the prompt, and what is asked for it.
        samples: the numbers of the samples to start.
    """

    asked: Asked
    samples: list[int]

    @property
    def number(self) -> int:
        """The caller's number for the prompt."""
        return self.asked.number

    @property
    def prompt(self) -> RenderedPrompt:
        """The prompt."""
        return self.asked.prompt


@dataclass(frozen=True)
class Capacity:
    """What the device has room for.

    Attributes:
        kv_bytes: bytes of the keys and values of some rows of some tokens each.
        kv_limit: most bytes of keys and values.
        pack_tokens: most prompt tokens of one prefill.
    """

    kv_bytes: Callable[[int, int], int]
    kv_limit: int
    pack_tokens: int


class Scheduler:
    """The prompts of one call, or of a session.

    Attributes:
        rows: most rows that may run together.
        prompts: most prompts of one prefill.
        rows_for_now: most rows until some have left.
        waiting: entries that wait, the next one first; the source is read only as they are taken.
        running: prompts of which rows run, by number.
    """

    def __init__(self, source: Iterator[Asked | None], rows: int) -> None:
        """Start with everything waiting.

        Args:
            source: what is asked for; None says that there is nothing yet.
            rows: most rows that may run together.
        """
        self._source, self._ended = source, False
        self.rows = self.prompts = self.rows_for_now = rows
        self.waiting: deque[Entry] = deque()
        self.running: dict[int, Asked] = {}
        self._failed_alone: set[int] = set()

    @property
    def exhausted(self) -> bool:
        """Whether nothing waits and the source has ended."""
        return self._peek() is None and self._ended

    def has_room(self, running: int) -> bool:
        """Whether a prefill is worth while beside `running` rows.

        Few prompts at a time would make many small prefills, so a quarter must be free.
        """
        free = min(self.rows, self.rows_for_now) - running
        return running == 0 or free >= max(1, self.rows // 4)

    def admit(
        self, running: int, longest: int, capacity: Capacity, *, alone: bool = False
    ) -> list[Entry]:
        """Take the prompts that start together next; at least one where nothing runs.

        Args:
            running: rows that run already.
            longest: tokens of the longest of them.
            capacity: what the device has room for.
            alone: one prompt at a time.
        """
        taken: list[Entry] = []
        tokens = rows = 0
        while (entry := self._peek()) is not None:
            length, wanted = len(entry.prompt.ids), min(len(entry.samples), self.rows)
            total = running + rows + wanted
            crowded = (
                total > min(self.rows, self.rows_for_now)
                or capacity.kv_bytes(total, max(longest, length) + 1) > capacity.kv_limit
            )
            full = tokens + length > capacity.pack_tokens or len(taken) == self.prompts
            if (running or taken) and (crowded or full):
                break
            taken.append(self._take())
            longest, tokens, rows = max(longest, length), tokens + length, rows + wanted
            if alone:
                break
        return taken

    def started(self) -> None:
        """The entries that were admitted run."""
        self.rows_for_now = self.rows

    def prefill_failed(self, taken: Sequence[Entry], running: int) -> RenderedPrompt | None:
        """Memory did not suffice for a prefill: lower a bound, and let the entries wait again.

        Args:
            taken: the entries of the prefill.
            running: rows that ran beside it.

        Returns:
            The prompt, if it was alone for the second time: it cannot be done.
        """
        single = running == 0 and len(taken) == 1 and len(taken[0].samples) == 1
        if single and self._failed_before(taken[0].number):
            self.cancel(taken[0].number)
            return taken[0].prompt
        if len(taken) > 1:
            self.prompts = len(taken) // 2
        elif running:
            self.rows_for_now = running
        else:
            self.rows = max(1, len(taken[0].samples) // 2)
        self.waiting.extendleft(reversed(taken))
        return None

    def step_failed(self, rows: Sequence[tuple[int, int]]) -> RenderedPrompt | None:
        """Memory did not suffice for a decoding step: all rows start again, fewer together.

        Args:
            rows: prompt number and sample of every row that ran.

        Returns:
            The prompt, if its one row ran alone for the second time: it cannot be done.
        """
        if len(rows) == 1 and self._failed_before(rows[0][0]):
            asked = self.running[rows[0][0]]
            self.cancel(rows[0][0])
            return asked.prompt
        self.rows = max(1, len(rows) // 2)
        again: dict[int, list[int]] = {}
        for number, sample in rows:
            again.setdefault(number, []).append(sample)
        for number, samples in again.items():
            self.waiting.appendleft(Entry(self.running[number], samples))
        return None

    def done(self, number: int) -> None:
        """All samples of a prompt have left."""
        self.running.pop(number, None)
        self._failed_alone.discard(number)

    def idle(self) -> None:
        """Nothing runs: what did not fit beside others may fit now."""
        self.prompts = self.rows_for_now = self.rows

    def _peek(self) -> Entry | None:
        """The next entry, left in its place."""
        if not self.waiting and not self._ended:
            try:
                following = next(self._source)
            except StopIteration:
                self._ended = True
            else:
                if following is not None:
                    self.waiting.append(Entry(following, list(range(following.samples))))
        return self.waiting[0] if self.waiting else None

    def _take(self) -> Entry:
        """The next entry, with no more samples than may run together."""
        entry = self.waiting.popleft()
        first, rest = entry.samples[: self.rows], entry.samples[self.rows :]
        if rest:
            self.waiting.appendleft(Entry(entry.asked, rest))
        self.running[entry.number] = entry.asked
        return Entry(entry.asked, first)

    def _failed_before(self, number: int) -> bool:
        """Whether a prompt failed alone before; memory may have been short for a moment only."""
        before = number in self._failed_alone
        self._failed_alone.add(number)
        return before

    def cancel(self, number: int) -> None:
        """Forget a prompt, with what waits of it: it cannot be done, or nobody wants it."""
        self.done(number)
        self.waiting = deque(e for e in self.waiting if e.number != number)
