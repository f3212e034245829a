"""Reading a clip with FFmpeg (PyAV): its video stream, its frames in spite of damage, as seen."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ume_core.errors import EngineUnavailable, MediaError
from ume_core.media.shown import Orientations, Shown, pixel_shape

# What is decoded, by FFmpeg's names. It knows formats that open what the bytes name (concat and
# HLS playlists: files and URLs; SDP: sockets).
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,ogg,flv,h264,hevc"
# What cameras, phones and editors write. FFmpeg has some hundred decoders more, many of them old
# and rarely looked at, and some nest a picture format in a clip (JPEG 2000: CVE-2026-22778).
_VIDEO_CODECS = frozenset(
    "h264 hevc av1 vp8 vp9 mpeg1video mpeg2video mpeg4 h263 h263p mjpeg theora flv1 msmpeg4v2 "
    "msmpeg4v3 wmv1 wmv2 wmv3 vc1 ffv1 rawvideo qtrle prores dvvideo".split()
)
# The decoders that may look into a clip while it is opened, by FFmpeg's names; sound beside them.
_DECODERS = ",".join(
    sorted(_VIDEO_CODECS)
    + "libdav1d libaom-av1 libvpx libvpx-vp9 flv vp9 aac mp3 mp3float ac3 eac3 opus vorbis flac "
    "alac pcm_s16le pcm_s16be pcm_u8 libopus".split()
)
_DECLARING = ("mov", "matroska", "avi", "flv")  # formats that state a length; others' is a guess
_TS_DISCONT = 0x0200  # AVFMT_TS_DISCONT of libavformat: time stamps may start anew midway
_MICROSECONDS = 1e6  # AV_TIME_BASE
_MOST_BREAKS = 50  # places in a row at which a container may be unreadable before we give up
# Decoders that leave out pictures they cannot decode without a word, and hide none on purpose.
_SILENT = frozenset({"h264", "hevc", "vvc"})
_RUN = 3  # pictures missing in a row that are damage; single ones may be a frame's second field
# What a file may be short of the length it states: seconds, a share of it, frames.
_CUT, _CUT_SHARE, _CUT_FRAMES = 0.1, 0.02, 2


@dataclass
class Damage:
    """What of a clip could not be read.

    Attributes:
        packets: that no decoder took.
        breaks: places at which the container was unreadable.
        corrupt: packets and frames that FFmpeg marks so.
        missing: pictures that did not come out of the decoder, in runs.
        cut: (seconds the file says it lasts, seconds that were there), where they differ.
        reason: FFmpeg's word on the last one.
    """

    packets: int = 0
    breaks: int = 0
    corrupt: int = 0
    missing: int = 0
    cut: tuple[float, float] | None = None
    reason: str = ""

    def __bool__(self) -> bool:
        return bool(self.packets or self.breaks or self.corrupt or self.missing or self.cut)

    def sentences(self, name: str) -> list[str]:
        """What to tell the clip's owner."""
        found = [
            (self.packets, "packets that cannot be decoded: {}"),
            (self.breaks, "unreadable places in the container: {}"),
            (self.corrupt, "packets and frames marked as corrupt: {}"),
            (self.missing, "missing frames: {}"),
        ]
        what = ", ".join(text.format(count) for count, text in found if count)
        out = [f"Damage in {name} ({what}); what could be decoded was used."] if what else []
        if self.cut is not None:
            says, there = self.cut
            out.append(f"Only {there:.3g} s of the {says:.3g} s that {name} should last are there.")
        return out


@dataclass
class Reading:
    """One pass over a clip's video stream; to be closed.

    Attributes:
        damage: what was noticed so far.
        tail: seconds the last frame stays on screen, by its packet; 0 where it does not say.
    """

    container: Any
    stream: Any
    damage: Damage = field(default_factory=Damage)
    tail: float = 0.0

    def __enter__(self) -> Reading:
        return self

    def __exit__(self, *_: object) -> None:
        self.container.close()

    def frames(self) -> Iterator[Shown]:
        """Every frame that can be decoded: a bad packet costs its own and those built on it."""
        packets = _Packets(self.stream)
        shape, orientations = pixel_shape(self.stream), Orientations(self.stream)
        breaks = 0  # in a row
        failure = import_av().error.FFmpegError
        while True:
            try:
                # All streams: how far they reach says whether the file was cut.
                for packet in self.container.demux():
                    breaks = 0
                    packets.read(packet)
                    for frame in self._decode(packet, failure):
                        packets.shown(frame)
                        yield Shown(frame, orientations.of(frame), shape)
                break
            except failure as error:
                self.damage.breaks += 1
                self.damage.reason = reason(error)
                breaks += 1
                if breaks >= _MOST_BREAKS:
                    break
        self.tail = packets.tail
        if self.stream.codec_context.name in _SILENT:
            self.damage.missing = packets.missing()
        self.damage.cut = self._cut(packets)

    def _decode(self, packet: Any, failure: type[Exception]) -> list[Any]:
        """A packet's frames; none if it is another stream's or cannot be decoded."""
        # An empty packet is a frame that a recorder left out; without a time it ends the stream.
        if packet.stream_index != self.stream.index or (not packet.size and packet.dts is not None):
            return []
        self.damage.corrupt += packet.is_corrupt
        try:
            frames = packet.decode()
        except failure as error:
            self.damage.packets += 1
            self.damage.reason = reason(error)
            return []
        self.damage.corrupt += sum(frame.is_corrupt for frame in frames)
        return frames

    def _cut(self, packets: _Packets) -> tuple[float, float] | None:
        declared = self.container.duration
        if declared is None or not self.container.format.name.startswith(_DECLARING):
            return None
        length = declared / _MICROSECONDS
        # Matroska's counts from zero, others' from the first time stamp.
        there = max(0.0, packets.reach - min(0, self.container.start_time or 0) / _MICROSECONDS)
        spare = max(_CUT, _CUT_SHARE * length, _CUT_FRAMES * packets.interval)
        return (length, there) if length - there > spare else None


class _Packets:
    """Times of the packets that went into the decoder, to know what did not come out."""

    def __init__(self, stream: Any) -> None:
        self.reach, self.tail, self._last = 0.0, 0.0, -math.inf
        self._index, self._due = stream.index, set[int]()
        self._order: list[int] = []
        self._base = stream.time_base
        self._first: int | None = None  # before it, a recording that begins midway has pieces only

    def read(self, packet: Any) -> None:
        if packet.pts is None or not packet.time_base:
            return
        seconds = float(packet.pts * packet.time_base)
        length = float((packet.duration or 0) * packet.time_base)
        self.reach = max(self.reach, seconds + length)
        if packet.stream_index != self._index or packet.is_discard:
            return
        self._due.add(packet.pts)
        self._order.append(packet.pts)
        if seconds > self._last:
            self._last, self.tail = seconds, length

    def shown(self, frame: Any) -> None:
        self._due.discard(frame.pts)
        if self._first is None:
            self._first = frame.pts

    @property
    def interval(self) -> float:
        """Seconds from one video packet to the next, on average."""
        if len(self._order) < 2:
            return 0.0
        return float((max(self._order) - min(self._order)) * self._base) / (len(self._order) - 1)

    def missing(self) -> int:
        total = run = 0
        if self._first is None:
            return 0
        for pts in [*sorted(pts for pts in self._order if pts > self._first), None]:
            if pts in self._due:
                run += 1
                continue
            total += run if run >= _RUN else 0
            run = 0
        return total


def import_av() -> Any:
    """PyAV, an extra.

    Raises:
        EngineUnavailable: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise EngineUnavailable(
            "video files need PyAV", fix="pip install 'av>=15', or pass a list of frames"
        ) from error
    return av


def open_clip(data: bytes, name: str, *, threads: bool) -> Reading:
    """A clip's container and its video stream.

    Args:
        threads: whether several threads may decode; what they make of damage differs by run.

    Raises:
        MediaError: it has no video stream that can be decoded. Exception: FFmpeg's, on its header.
    """
    container = import_av().open(
        io.BytesIO(data),
        metadata_errors="replace",
        io_open=_refuse_open,
        container_options={"format_whitelist": _FORMATS, "codec_whitelist": _DECODERS},
    )
    try:
        stream = _video_stream(container, name)
        stream.thread_type = "AUTO" if threads else "NONE"
    except BaseException:
        container.close()
        raise
    return Reading(container, stream)


def _refuse_open(*_: Any, **__: Any) -> Any:
    raise PermissionError("a video may not open anything beside itself")


def _video_stream(container: Any, name: str) -> Any:
    """The stream a player shows: FFmpeg's best one that is not a cover or a thumbnail.

    FFmpeg's choice (`av_find_best_stream`) is the default track, then the one with most frames and
    bits. It counts covers among them; where it takes one, the default track, then the largest.
    """
    from av.stream import Disposition

    covers = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
    if not container.streams.video:
        raise MediaError(f"{name} has no video stream", fix="pass a video file")
    clips = [s for s in container.streams.video if not s.disposition & covers]
    if not clips:
        raise MediaError(
            f"{name} has no video stream, only a cover picture", fix="pass a video file"
        )
    decodable = [s for s in clips if s.codec_context is not None]
    known = [s for s in decodable if s.codec_context.codec.canonical_name in _VIDEO_CODECS]
    if decodable and not known:
        codec = decodable[0].codec_context.codec.canonical_name
        raise MediaError(
            f"{name} uses the codec {codec}, which is not read here",
            fix="convert it to MP4 (H.264)",
        )
    if not known:
        raise MediaError(f"{name} uses an unknown codec", fix="convert it to MP4 (H.264)")
    best = container.streams.best("video")
    if best is not None and any(s.index == best.index for s in known):
        return best
    return max(known, key=lambda s: (bool(s.disposition & Disposition.default), s.width * s.height))


class Clock:
    """Seconds at which frames are shown since their stream's start, whatever its first stamp is."""

    def __init__(self, stream: Any) -> None:
        self._base, self._origin = stream.time_base, stream.start_time
        self._shown: list[int | None] = []
        self._decoded: list[int | None] = []

    def note(self, frame: Any) -> float | None:
        """Take in the next frame; when it is shown, None where the file does not say."""
        self._shown.append(frame.pts)
        self._decoded.append(frame.dts)
        if frame.pts is None:
            return None
        if self._origin is None:
            self._origin = frame.pts
        return float((frame.pts - self._origin) * self._base)

    def seconds(self) -> list[float | None]:
        """When each frame noted is shown.

        By its time of presentation, or of decoding where those are in better order, as FFmpeg
        guesses it (`guess_correct_pts`): AVI has no others.
        """
        if _faults(self._decoded) < _faults(self._shown):
            origin, stamps = next((s for s in self._decoded if s is not None), 0), self._decoded
        else:
            origin, stamps = self._origin, self._shown
        return [None if s is None else float((s - origin) * self._base) for s in stamps]


def _faults(stamps: list[int | None]) -> int:
    """How many time stamps are missing or not above the one before."""
    faults, last = 0, -math.inf
    for stamp in stamps:
        faults += stamp is None or stamp <= last
        last = last if stamp is None else stamp
    return faults


def header_rate(reading: Reading) -> float | None:
    """Frames a second by the headers; None where they do not say."""
    stream = reading.stream
    return float(stream.average_rate or stream.guessed_rate or 0) or None


def may_jump(reading: Reading) -> bool:
    """Whether time stamps of this format may start anew midway."""
    return bool(int(reading.container.format.flags) & _TS_DISCONT)


def reason(error: BaseException) -> str:
    """What FFmpeg or its bindings say, without codes and file names."""
    return getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
