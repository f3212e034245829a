"""`ume run-batch`: the requests of an OpenAI batch file, without a server.

A line is `{"custom_id", "method": "POST", "url": "/v1/embeddings", "body"}`; the answer's line is
OpenAI's `{"id", "custom_id", "response": {"status_code", "request_id", "body"}, "error"}`. Lines
are written whole as they are done; a run that was stopped goes on with those that have none yet.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from hashlib import blake2b
from io import RawIOBase
from pathlib import Path
from typing import Any

from ume_core.errors import InvalidItem, InvalidOption, UmeError
from ume_core.fetch import Access
from ume_core.items import Item
from ume_core.session import Embedded, Session, open_session
from ume_core.signature import MODES
from ume_r1.commands.common import model_arguments, named_engine, named_model, options_from
from ume_r1.commands.progress import progress_bar
from ume_r1.loading import load
from ume_server.admission import check_request, weigh
from ume_server.errors import ApiError, public
from ume_server.settings import SERVER_POLICY, Settings
from ume_server.wire.ask import Ask, Served, read_json
from ume_server.wire.openai import embeddings_answer, read_embeddings
from ume_server.wire.parts import PartReader

_AHEAD = 512  # items submitted and not answered yet
_URL = "/v1/embeddings"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `ume run-batch`."""
    parser.add_argument("file", type=Path, help="requests, as OpenAI's batch API takes them")
    parser.add_argument("--out", type=Path, required=True, help="answers; goes on where it ends")
    parser.add_argument("--served-name", help="the model's name in the requests")
    model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Answer every request; 1 if one failed."""
    if not args.file.is_file():
        raise InvalidOption(f"{args.file} is no file", fix="name a .jsonl file")
    if args.out.exists() and not args.out.is_file():
        raise InvalidOption(f"{args.out} is no file that can be gone on with", fix="name a file")
    if not args.out.resolve().parent.is_dir():
        raise InvalidOption(f"no folder {args.out.resolve().parent}", fix="create it first")
    done = _repair(args.out)
    lines = _count(args.file)
    model = load(
        named_model(args), engine=named_engine(args), policy=SERVER_POLICY,
        **options_from(args),
    )  # fmt: skip
    name = args.served_name or model.signature("disc").model
    served = Served(name, tuple(m for m in MODES if m in model.modes), model.dimensions)
    failed = 0
    with open_session(model) as session, args.out.open("ab", buffering=0) as out:
        batch = _Batch(session, served, Settings(items=100_000, tokens=1 << 40))
        with progress_bar("batch") as bar:
            task = bar.add_task("", total=lines)
            known = len(done)
            for written, status in batch.answers(_requests(args.file, done)):
                try:
                    _append(out, written)
                except OSError as error:
                    raise OSError(
                        error.errno, f"{error.strerror}: {known} of {lines} answers are in "
                        f"{args.out}, where the same command goes on"
                    ) from error  # fmt: skip
                failed += status != 200
                known += 1
                bar.update(task, completed=known)
    print(f"{known} of {lines} requests are answered in {args.out}, {failed} failed now",
          file=sys.stderr)  # fmt: skip
    return 1 if failed else 0


@dataclass
class _Open:
    """A request whose items are being computed."""

    custom_id: str
    ask: Ask
    futures: list[Future[Embedded] | UmeError]


class _Batch:
    """Requests of one file on one session."""

    def __init__(self, session: Session, served: Served, settings: Settings) -> None:
        self._session, self._served, self._settings = session, served, settings
        self._reader = PartReader(Access(SERVER_POLICY, settings.limits), urls=False)

    def answers(
        self, requests: Iterator[tuple[str, dict[str, Any] | ApiError]]
    ) -> Iterator[tuple[dict[str, Any], int]]:
        """Lines of answers with their status, the session kept busy meanwhile."""
        waiting: deque[_Open] = deque()
        items = 0
        for custom_id, body in requests:
            try:
                if isinstance(body, ApiError):
                    raise body
                begun = self._begin(custom_id, body)
            except ApiError as error:
                yield _line(custom_id, error.status, error.body())
                continue
            waiting.append(begun)
            items += len(begun.futures)
            while items > _AHEAD:
                first = waiting.popleft()
                items -= len(first.futures)
                yield self._end(first)
        while waiting:
            yield self._end(waiting.popleft())

    def _begin(self, custom_id: str, body: dict[str, Any]) -> _Open:
        ask = read_embeddings(body, self._served, self._reader)
        if ask.stream:
            raise ApiError(400, "a batch has no streams. Fix: leave it out", "invalid_field")
        check_request(ask, weigh(ask.items, self._settings.limits), self._settings)
        return _Open(custom_id, ask, [self._submit(ask, item) for item in ask.items])

    def _submit(self, ask: Ask, item: Item | UmeError) -> Future[Embedded] | UmeError:
        if isinstance(item, UmeError):
            return item
        try:
            return self._session.submit(
                item, mode=ask.mode, instruction=ask.instruction, sampling=ask.sampling,
                max_new_tokens=ask.max_new_tokens, lane="bulk",
            )  # fmt: skip
        except UmeError as error:
            return error

    def _end(self, request: _Open) -> tuple[dict[str, Any], int]:
        outcomes: list[Embedded | UmeError] = []
        for index, future in enumerate(request.futures):
            try:
                outcomes.append(
                    _numbered(future, index) if isinstance(future, UmeError) else future.result()
                )
            except UmeError as error:
                outcomes.append(_numbered(error, index))
        bad = next((o for o in outcomes if isinstance(o, UmeError)), None)
        if bad is not None and not request.ask.record_errors:
            error = public(bad, param="input")
            return _line(request.custom_id, error.status, error.body())
        body = embeddings_answer(request.ask, outcomes, [False] * len(outcomes))
        return _line(request.custom_id, 200, body)


def _numbered(error: UmeError, index: int) -> UmeError:
    return type(error)(error.cause, fix=error.fix, item=index)


def _line(custom_id: str, status: int, body: dict[str, Any]) -> tuple[dict[str, Any], int]:
    digest = blake2b(custom_id.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
    response = {"status_code": status, "request_id": f"req_{digest}", "body": body}
    return {
        "id": f"batch_req_{digest}", "custom_id": custom_id, "response": response, "error": None
    }, status  # fmt: skip


def _requests(path: Path, done: set[str]) -> Iterator[tuple[str, dict[str, Any] | ApiError]]:
    """The requests that are not answered, by `custom_id`."""
    seen = set[str]()
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            custom_id, body = _request(line, number)
            if custom_id in seen:
                raise InvalidItem(
                    f"line {number} of {path} repeats the custom_id {custom_id!r}",
                    fix="give every request its own",
                )
            seen.add(custom_id)
            if custom_id not in done:
                yield custom_id, body


def _request(line: bytes, number: int) -> tuple[str, dict[str, Any] | ApiError]:
    try:
        values = read_json(line, Settings().depth)
    except ApiError as error:
        return f"line-{number}", error
    custom_id = values.get("custom_id")
    if not isinstance(custom_id, str):
        error = ApiError(400, "custom_id is no string. Fix: give one", "invalid_field", "custom_id")
        return f"line-{number}", error
    body: Any = values.get("body")
    if values.get("url") != _URL or values.get("method", "POST") != "POST":
        return custom_id, ApiError(
            400, f"only POST {_URL} is answered. Fix: send such requests", "invalid_url", "url"
        )
    if not isinstance(body, dict):
        return custom_id, ApiError(400, "body is no object. Fix: send one", "invalid_field", "body")
    return custom_id, body


def _repair(path: Path) -> set[str]:
    """The ids that are answered; a last line that was cut off by a kill is taken away."""
    done = set[str]()
    if not path.exists():
        return done
    kept = 0
    with path.open("r+b") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                done.add(json.loads(line)["custom_id"])
            except (ValueError, KeyError, TypeError):
                raise InvalidOption(
                    f"line {number} of {path} is no answer of a batch", fix="name another --out"
                ) from None
            kept += len(line)
        file.truncate(kept)
    return done


def _count(path: Path) -> int:
    with path.open("rb") as lines:
        return sum(bool(line.strip()) for line in lines)


def _append(out: RawIOBase, line: dict[str, Any]) -> None:
    """On disk when this returns; where it fails, a part may be, which `_repair` takes away."""
    left = memoryview(
        json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
    )
    while left:
        left = left[out.write(left) or 0 :]
    os.fsync(out.fileno())
