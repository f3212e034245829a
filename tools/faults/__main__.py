"""Faults at every file call of `ume index`: nothing may be lost, wrong or left behind.

    python -m tools.faults --every 50               a few dozen cases, as in the tests
    python -m tools.faults --every 1 --report NAME  thousands, into tools/faults/reports

Kills: SIGKILL before the n-th call that changes something, or in the middle of a write; once, or
twice in a row. Errors: the n-th call fails, once or from then on. Damage: every file of an index,
in every way of `_DAMAGES`. After each case the same command runs again without a fault, and the
index is compared with what its folder's files must give.
"""

from __future__ import annotations

import argparse
import errno
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from tools.faults.process import (
    CHANGES,
    COUNT,
    CREATE,
    FAIL,
    FAIL_ON,
    KILL,
    LOOK,
    NAME,
    NO_RENAMEAT,
    OPEN,
    READ,
    SYNC,
    TORN,
    WRITE,
    Fault,
    run,
    start,
)  # fmt: skip
from tools.faults.scenarios import Scenario, complaint, expected, make, search

REPORTS = Path(__file__).with_name("reports")
# Errors and the calls that may report them.
_ERRORS = {
    errno.ENOSPC: CREATE | WRITE | SYNC,
    errno.EDQUOT: CREATE | WRITE,
    errno.EIO: READ | OPEN | CREATE | WRITE | NAME | SYNC | LOOK,
    errno.EROFS: CREATE | NAME,
    errno.EMFILE: OPEN | CREATE,
    errno.EACCES: OPEN | CREATE | NAME | LOOK,
}
_DAMAGES: dict[str, Callable[[bytes, random.Random], bytes | None]] = {
    **{f"bit {n}": lambda data, rng: _flipped(data, rng) for n in range(8)},
    "cut": lambda data, rng: data[:-7],
    "halved": lambda data, rng: data[: len(data) // 2],
    "emptied": lambda data, rng: b"",
    "zeroed": lambda data, rng: bytes(len(data)),
    "random": lambda data, rng: rng.randbytes(len(data)),
    "longer": lambda data, rng: data + b"more",
    "deleted": lambda data, rng: None,
    "a directory": lambda data, rng: None,
}
_RARE = 8
Case = tuple[str, str, Callable[[], list[str]]]  # group, name, what is wrong afterwards


def _flipped(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data or b"\0")
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cases(scenarios: list[Scenario], index: Path, every: int, rng: random.Random) -> Iterator[Case]:
    """The `every`-th case of each group; of errors, which are many and much alike, fewer."""
    for scenario in scenarios:
        # A repair takes seconds, since it starts a process.
        rare = every * (_RARE if scenario.name == "repair" else 1)
        changes = _calls(scenario, index, CHANGES)
        once = [[Fault(KILL, CHANGES, n + 1)] for n in range(changes)]
        yield from _thin(_killed(scenario, index, "kill", once), rare)
        torn = [[Fault(TORN, WRITE, n + 1)] for n in range(_calls(scenario, index, WRITE))]
        yield from _thin(_killed(scenario, index, "kill in a write", torn), rare)
        twice = [rng.choice(once) + rng.choice(once) for _ in range(changes)]
        yield from _thin(_killed(scenario, index, "kill, twice", twice), rare)
        failing: list[Fault] = []
        for number, kinds in _ERRORS.items():
            for n in range(_calls(scenario, index, kinds)):
                failing += [Fault(a, kinds, n + 1, number) for a in (FAIL, FAIL_ON)]
        for n in range(0, changes, 4):
            failing.append(Fault(NO_RENAMEAT, CHANGES, n + 1, errno.ENOSPC))
        yield from _thin(_failed(scenario, index, failing), _RARE * rare)
        if scenario.name == "grow":
            yield from _thin(_unread(scenario, index), every)
    for scenario in scenarios[1:3]:
        yield from _thin(_damaged(scenario, index, rng), every)


def _thin(found: Iterator[Case], every: int) -> Iterator[Case]:
    yield from (case for number, case in enumerate(found) if number % every == every // 2)


def _calls(scenario: Scenario, index: Path, kinds: int) -> int:
    ended = run(scenario.command(scenario.fresh(index)), index, Fault(COUNT, kinds))
    return int(ended.said.splitlines()[-1])


def _killed(
    scenario: Scenario, index: Path, group: str, kills: list[list[Fault]]
) -> Iterator[Case]:
    for faults in kills:

        def work(faults: list[Fault] = faults) -> list[str]:
            scenario.fresh(index)
            wrong = [complaint(run(scenario.command(index), index, f)) for f in faults]
            # What an interrupted run leaves can be searched.
            said = _search(index, whole=scenario.name in ("grow", "change"))
            return [w for w in wrong if w] + said + _again(scenario, index)

        at = ", ".join(str(f.at) for f in faults)
        yield group, f"{scenario.name}: {group} at change {at}", work


def _failed(scenario: Scenario, index: Path, faults: list[Fault]) -> Iterator[Case]:
    for fault in faults:

        def work(fault: Fault = fault) -> list[str]:
            ended = run(scenario.command(scenario.fresh(index)), index, fault)
            wrong = complaint(ended)
            # A run that reports success must be right at once.
            early = scenario.problems(index) if ended.status == 0 else []
            said = [f"it said '{ended.said.splitlines()[-1]}', but {e}" for e in early]
            return [w for w in [wrong] if w] + said + _again(scenario, index)

        way = {FAIL: "once", FAIL_ON: "from then on", NO_RENAMEAT: "at every renameat"}
        name = f"{errno.errorcode[fault.errno]} {way[fault.action]}, call {fault.at}"
        yield "error", f"{scenario.name}: {name}", work


def _unread(scenario: Scenario, index: Path) -> Iterator[Case]:
    """Errors below the indexed folder: what cannot be read keeps its row, as it was."""
    kinds, folder = OPEN | READ | LOOK, scenario.folder
    counted = run(scenario.command(scenario.fresh(index)), folder, Fault(COUNT, kinds))
    before = scenario.stored(scenario.fresh(index))
    for n in range(int(counted.said.splitlines()[-1])):
        for action in (FAIL, FAIL_ON):
            fault = Fault(action, kinds, n + 1, errno.EIO)

            def work(fault: Fault = fault) -> list[str]:
                ended = run(scenario.command(scenario.fresh(index)), folder, fault)
                after, right = scenario.stored(index), expected(folder)
                lost = [n for n in before if n not in after]
                wrong = [n for n in after if after[n] not in (before.get(n), right[n])]
                said = [f"{ended.said[-300:]}: lost {lost}, wrong {wrong}"] if lost + wrong else []
                said += [w for w in [complaint(ended)] if w]
                return said + _again(scenario, index)

            way = "once" if action == FAIL else "from then on"
            yield "error in the folder", f"{scenario.name}: EIO {way}, call {n + 1} in it", work


def _damaged(scenario: Scenario, index: Path, rng: random.Random) -> Iterator[Case]:
    """Damage to an index whose folder has not changed since."""
    base = index.parent / "damaged-base"
    shutil.rmtree(base, ignore_errors=True)
    run(scenario.command(scenario.fresh(index)), index)
    shutil.copytree(index, base)
    whole = Scenario("damage", scenario.folder, base)
    for path in sorted(p for p in base.rglob("*") if p.is_file()):
        name = path.relative_to(base)
        for way, change in _DAMAGES.items():

            def work(
                name: Path = name,
                way: str = way,
                change: Callable[[bytes, random.Random], bytes | None] = change,
            ) -> list[str]:
                place = whole.fresh(index) / name
                changed = change(place.read_bytes(), rng)
                place.unlink()
                if changed is not None:
                    place.write_bytes(changed)
                elif way == "a directory":
                    place.mkdir()
                return _search(index, whole=False) + _repair(whole, index, place)

            kind = name.parts[-2] if len(name.parts) > 1 else name.name
            yield "damage", f"{kind}: {way}", work


def _search(index: Path, *, whole: bool) -> list[str]:
    """A search gives the right file with cosine 1; or an error of ours, unless it is `whole`."""
    ended = run(search(index, "text number 13"), index)
    right = re.search(r"^  1\.000  .*text-13\.txt$", ended.said, re.MULTILINE)
    hit = re.search(r"^  \d\.\d{3}  ", ended.said, re.MULTILINE)
    if (whole or hit) and not right:
        return [f"search: {ended.said[-200:]}"]
    wrong = complaint(ended)
    return [f"search {wrong}"] if wrong else []


def _repair(scenario: Scenario, index: Path, place: Path) -> list[str]:
    """Indexing repairs, or says what to do; then that is done."""
    ended = run(scenario.command(index), index)
    if ended.status:
        wrong = complaint(ended)
        if wrong:
            return [wrong]
        if "--rebuild" in ended.said:
            ended = run(scenario.command(index, "--rebuild"), index)
        elif str(place) in ended.said:  # it names a directory that is in the way
            shutil.rmtree(place)
            ended = run(scenario.command(index), index)
    if ended.status:
        return [f"not repaired: {ended.said[-300:]}"]
    return scenario.problems(index)


def _again(scenario: Scenario, index: Path) -> list[str]:
    """A plain rerun succeeds and leaves the right index."""
    ended = run(scenario.command(index), index)
    if ended.status:
        return [f"the rerun ended with {ended.status}: {ended.said[-300:]}"]
    # What a failed run wrote may be damaged; what was there before it is not to be lost.
    again = set(re.findall(r"^repaired (.*): its row", ended.said, re.MULTILINE))
    needless = again & scenario.unchanged if scenario.name != "repair" else set[str]()
    return [f"{name}: embedded again" for name in needless] + scenario.problems(index)


def main() -> int:
    """Run the cases; 1 if something was lost, wrong or left behind."""
    parser = argparse.ArgumentParser(prog="python -m tools.faults", description=__doc__)
    parser.add_argument("--every", type=int, default=50, help="run every n-th case (default: 50)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", help="write reports/NAME.md and .json")
    parser.add_argument("--only", help="cases whose names hold this")
    args = parser.parse_args()
    start()
    began, bad, counts = time.monotonic(), [], Counter[str]()
    rng = random.Random(args.seed)
    stopped = False
    with tempfile.TemporaryDirectory(prefix="ume-faults-") as folder:
        place = Path(folder)
        index = place / "index"
        try:
            for group, name, work in cases(make(place), index, args.every, rng):
                if args.only and args.only not in name:
                    continue
                if counts.total() and counts.total() % 200 == 0:
                    print(f"{counts.total()} cases ...", file=sys.stderr, flush=True)
                wrong = work()
                counts[group] += 1
                if wrong:
                    bad.append({"case": name, "wrong": wrong})
                    print(f"{name}\n  " + "\n  ".join(wrong), flush=True)
        except KeyboardInterrupt:  # what was tried is reported all the same
            stopped = True
    seconds = time.monotonic() - began
    print(f"{counts.total()} cases in {seconds:.0f} s, {len(bad)} wrong: {dict(counts)}")
    if args.report:
        _write(args.report, counts, bad, seconds, stopped)
    return 1 if bad else 0


def _write(
    name: str, counts: Counter[str], bad: list[object], seconds: float, stopped: bool
) -> None:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    command = "python -m tools.faults " + " ".join(sys.argv[1:])
    REPORTS.mkdir(exist_ok=True)
    stored = {
        "command": command, "commit": commit, "stopped": stopped, "cases": counts, "wrong": bad,
    }  # fmt: skip
    (REPORTS / f"{name}.json").write_text(json.dumps(stored, indent=1) + "\n")
    rows = "\n".join(f"| {group} | {count} |" for group, count in counts.items())
    (REPORTS / f"{name}.md").write_text(
        f"# Faults against the index\n\n`{command}` at {commit}, {seconds:.0f} s"
        f"{', stopped before its end' if stopped else ''}.\n\n"
        f"| fault | cases |\n|---|---|\n{rows}\n| **all** | **{counts.total()}** |\n\n"
        f"Lost, wrong or left behind: **{len(bad)}**.\n"
    )


if __name__ == "__main__":
    sys.exit(main())
