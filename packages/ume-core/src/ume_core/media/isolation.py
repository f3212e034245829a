"""Decoding in processes of their own: what crashes, hangs or takes one over costs its item alone.

Clips go there (FFmpeg), and pictures whose libraries are large and rarely met: TIFF, AVIF, HEIF.
What browsers show every day (PNG, JPEG, GIF, WebP, BMP, PPM) is decoded where it is: the way to
another process and back takes longer than most of these pictures.

A process is given bytes and gives pixels, each behind a header in JSON: nothing that it says is
unpickled or believed, so that bytes which take over a decoder have not taken over its parent. It
has no time, memory, open files or written bytes without a bound, and none of its parent's
environment. It is no sandbox: it may read the files that its user may read.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from io import BufferedReader
from typing import IO, Any, Protocol, cast

from PIL import Image as PILImage

from ume_core.errors import EngineUnavailable, InvalidItem, LimitExceeded, MediaError, UmeError
from ume_core.limits import Limits
from ume_core.media.bounds import check_frames, check_pixels, check_video_pixels

LENGTH = struct.Struct(">I")
_MOST_HEADER = 1 << 20  # bytes; of a few thousand frames' sizes and some sentences
_START_SECONDS = 60.0
_PIPE_BYTES = 1 << 20  # Linux's most: pixels come in fewer pieces
_JOBS = 500  # after which a process makes room for a fresh one: libraries leak
_KINDS: dict[str, type[UmeError]] = {
    kind.__name__: kind for kind in (MediaError, LimitExceeded, InvalidItem, EngineUnavailable)
}
# What a Python needs to start and to find its libraries; keys and tokens are not among it.
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "SYSTEMROOT")
_MAIN = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from ume_core.media.worker import main; main()"
)
_FIX = "if other programs show it, convert it (a clip to MP4 with H.264, a picture to PNG)"


def is_rare(data: bytes) -> bool:
    """Whether a picture is of a kind that is decoded apart, by its first bytes."""
    return data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+") or is_boxed(data)


def is_boxed(data: bytes) -> bool:
    """Whether it is AVIF or HEIF (ISO/IEC 14496-12), of which even the header is read apart."""
    return data[4:8] == b"ftyp"


@dataclass(frozen=True)
class Decoded:
    """What a decoder made of some bytes.

    Attributes:
        images: RGB.
        fps: frames a second, of a clip.
        warnings: what was noticed, as sentences.
    """

    images: list[PILImage.Image]
    fps: float
    warnings: tuple[str, ...]


def decode(
    kind: str, data: bytes, name: str, limits: Limits, options: Mapping[str, Any] | None = None
) -> Decoded:
    """A picture (`kind` is `image`) or a clip (`video`), decoded in another process.

    Args:
        kind: of the bytes.
        data: a file's.
        name: of the file, for messages.
        limits: its bounds; `Limits.decode_seconds` bounds the time.
        options: fields of `Video`, but for its source.

    Raises:
        UmeError: as the decoder says, or that it crashed or took too long.
    """
    asked = {
        "kind": kind, "name": name, "limits": asdict(limits), "options": dict(options or {}),
        "size": len(data),
    }  # fmt: skip
    answer, pixels = _decoders().run(asked, data, limits)
    images = [
        PILImage.frombuffer("RGB", size, part, "raw", "RGB", 0, 1)
        for size, part in zip(answer.sizes, pixels, strict=True)
    ]
    return Decoded(images, answer.fps, answer.warnings)


@dataclass(frozen=True)
class _Answer:
    """A process's header, checked."""

    sizes: list[tuple[int, int]]
    fps: float
    warnings: tuple[str, ...]

    @classmethod
    def of(cls, header: Any, limits: Limits) -> _Answer:
        """Check a header, as if it came from a stranger.

        Raises:
            UmeError: the item's own error, or that the answer is beyond the limits.
            ValueError: it is no answer.
        """
        if error := header.get("error"):
            kind, cause, fix = (str(text) for text in error)
            raise _KINDS.get(kind, MediaError)(cause, fix=fix)
        sizes = [(int(width), int(height)) for width, height in header["sizes"]]
        check_frames(len(sizes) - 1, limits)  # one may have been added to make them even
        pixels = 0
        for size in sizes:
            if min(size) < 1:
                raise ValueError(f"a picture of {size}")
            check_pixels(size, "a decoded picture", limits)
            pixels += size[0] * size[1]
        if len(sizes) > 1:
            check_video_pixels(pixels, f"{len(sizes)} decoded frames", limits)
        return cls(sizes, float(header["fps"]), tuple(str(text) for text in header["warnings"]))


class _Worker:
    """One process."""

    def __init__(self) -> None:
        self.jobs, self._late = 0, False
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-c", _MAIN, json.dumps(sys.path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={k: v for k, v in os.environ.items() if k in _ENVIRONMENT}, pipesize=_PIPE_BYTES,
        )  # fmt: skip
        assert self.process.stdin is not None and self.process.stdout is not None
        self._to: IO[bytes] = self.process.stdin
        self._back = cast("BufferedReader", self.process.stdout)
        try:
            with self._within(_START_SECONDS):
                read_header(self._back, _MOST_HEADER)
        except (OSError, EOFError, ValueError) as error:
            self.end()
            raise EngineUnavailable(
                f"the process that decodes media did not start: {error}",
                fix="see whether python -m ume_core.media.worker starts here",
            ) from error

    @property
    def lives(self) -> bool:
        """Whether it can be given more."""
        return self.process.poll() is None and self.jobs < _JOBS

    def run(
        self, asked: Mapping[str, Any], data: bytes, limits: Limits
    ) -> tuple[_Answer, list[bytearray]]:
        """One job.

        Raises:
            UmeError: the item's own error. It ends the process unless the decoder said it.
        """
        self.jobs += 1
        name = asked["name"]
        try:
            with self._within(limits.decode_seconds):
                write_header(self._to, asked)
                self._to.write(data)
                self._to.flush()
                answer = _Answer.of(read_header(self._back, _MOST_HEADER), limits)
                return answer, [read_exactly(self._back, 3 * w * h) for w, h in answer.sizes]
        except UmeError:
            raise
        except Exception as error:
            self.end()
            if self._late:
                raise LimitExceeded(
                    f"{name} takes longer to decode than limits.decode_seconds "
                    f"({limits.decode_seconds:g})",
                    fix="shorten or shrink it, or raise the limit",
                ) from error
            raise MediaError(
                f"{name} cannot be decoded: its decoder crashed ({self._ended()})", fix=_FIX
            ) from error

    def end(self) -> None:
        """No more."""
        self.process.kill()
        self.process.wait()
        for pipe in (self._to, self._back):
            with suppress(OSError):  # what was not sent yet
                pipe.close()

    def _within(self, seconds: float) -> _Alarm:
        return _Alarm(seconds, self._too_late)

    def _too_late(self) -> None:
        self._late = True
        self.process.kill()

    def _ended(self) -> str:
        status = self.process.returncode
        with suppress(ValueError):
            return signal.Signals(-status).name
        return f"status {status}"


class _Alarm:
    """Something that happens unless a block ends before."""

    def __init__(self, seconds: float, act: Any) -> None:
        self._timer = threading.Timer(seconds, act)
        self._timer.daemon = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()


class _Decoders:
    """The processes of this one, a few, started when they are needed. Thread-safe."""

    def __init__(self, most: int) -> None:
        self._room, self._lock = threading.BoundedSemaphore(most), threading.Lock()
        self._free: list[_Worker] = []

    def run(
        self, asked: Mapping[str, Any], data: bytes, limits: Limits
    ) -> tuple[_Answer, list[bytearray]]:
        """One job, on a process that is free."""
        with self._room:
            with self._lock:
                worker = self._free.pop() if self._free else None
            if worker is None or not worker.lives:
                if worker is not None:
                    worker.end()
                worker = _Worker()
            try:
                return worker.run(asked, data, limits)
            finally:
                # Of a process that was interrupted midway nobody knows what comes next.
                sound = sys.exc_info()[0] is None or isinstance(sys.exc_info()[1], UmeError)
                if sound and worker.lives:
                    with self._lock:
                        self._free.append(worker)
                else:
                    worker.end()


_mine: dict[int, _Decoders] = {}  # by process: a forked one must not talk on its parent's pipes
_making = threading.Lock()


def _decoders() -> _Decoders:
    with _making:
        process = os.getpid()
        if process not in _mine:
            _mine.clear()
            _mine[process] = _Decoders(max(2, min(8, os.cpu_count() or 2)))
        return _mine[process]


class Readable(Protocol):
    """What bytes come from."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill a buffer as far as it goes; how far."""
        ...


def write_header(to: IO[bytes], values: Mapping[str, Any]) -> None:
    """Length and JSON."""
    text = json.dumps(values).encode()
    to.write(LENGTH.pack(len(text)) + text)


def read_header(back: Readable, most: int) -> Any:
    """What `write_header` wrote.

    Raises:
        EOFError: it ends before.
        ValueError: it is longer than `most` bytes, or no JSON object.
    """
    (length,) = LENGTH.unpack(read_exactly(back, LENGTH.size))
    if length > most:
        raise ValueError(f"a header of {length:,} bytes")
    found = json.loads(read_exactly(back, length))
    if not isinstance(found, dict):
        raise ValueError("a header that is no object")
    return found  # pyright: ignore[reportUnknownVariableType]


def read_exactly(back: Readable, size: int) -> bytearray:
    """So many bytes.

    Raises:
        EOFError: there are fewer.
    """
    data = bytearray(size)
    view, got = memoryview(data), 0
    while got < size:
        count = back.readinto(view[got:])
        if not count:
            raise EOFError(f"{size:,} bytes were to come")
        got += count
    return data
