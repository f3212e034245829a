"""A decoded frame of a clip as a player shows it: upright, its pixels square, over white."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from PIL import Image as PILImage

from ume_core.media.pixels import over_white, swapped, upright

# A display matrix (ISO/IEC 14496-12, 6.2.2) takes a pixel (x, y) to (a x + c y, b x + d y). EXIF's
# orientation, 1 to 8, by (a, b, c, d).
_ORIENTATIONS: dict[tuple[int | None, ...], int] = {
    (1, 0, 0, 1): 1, (-1, 0, 0, 1): 2, (-1, 0, 0, -1): 3, (1, 0, 0, -1): 4,
    (0, 1, 1, 0): 5, (0, 1, -1, 0): 6, (0, -1, -1, 0): 7, (0, -1, 1, 0): 8,
}  # fmt: skip
_RIGHT_ANGLE = 0.02  # sine of the angle a matrix may be off; the `ffmpeg` command allows 1 degree
_SQUARE, _MOST_STRETCH = 0.01, 8.0  # a pixel's shape below which it is square, above: nonsense
_KINDS = 64  # of side data, more than FFmpeg has


@dataclass(frozen=True)
class Shown:
    """A frame and how it is to be seen.

    Attributes:
        frame: PyAV's.
        orientation: EXIF's, 1 to 8.
        shape: a pixel's width by its height.
    """

    frame: Any
    orientation: int
    shape: float

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) at which a player shows it."""
        width, height = int(self.frame.width), int(self.frame.height)
        if self.shape > 1:
            width = round(width * self.shape)
        else:
            height = round(height / self.shape)
        return swapped((width, height), self.orientation)

    def picture(self, size: tuple[int, int]) -> PILImage.Image:
        """RGB of this (width, height), upright, over white.

        Where the size is the frame's own, pixels equal PyAV's `to_rgb`.
        """
        frame = self.frame
        width, height = swapped(size, self.orientation)
        kept = (width, height) == (frame.width, frame.height)
        how = {} if kept else {"width": width, "height": height, "interpolation": "BICUBIC"}
        image = frame.reformat(format="rgb24", **how).to_image()
        if any(component.is_alpha for component in frame.format.components):
            alpha = frame.reformat(format="rgba", **how).to_ndarray()[:, :, 3]
            # Recorders leave zeros in an alpha they do not use; a clip of nothing is not meant.
            if alpha.any():
                image = over_white(image, PILImage.fromarray(alpha))
        return upright(image, self.orientation)


class Orientations:
    """How the frames of one stream are turned, by the display matrices of container and codec.

    FFmpeg puts both on frames. A codec may state its own once, for all frames that follow. An
    angle that is no right one is not followed.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._last = 1
        self._hidden: dict[int, int] = {}

    def of(self, frame: Any) -> int:
        """EXIF's orientation of the next frame, 1 to 8."""
        try:
            data = frame.side_data.get("DISPLAYMATRIX")
        except ValueError:  # side data of a kind that PyAV does not know hides the others
            if frame.rotation not in self._hidden:
                known = _with_known_side_data(frame, self._stream)
                found = _orientation(known.side_data.get("DISPLAYMATRIX"))
                self._hidden[frame.rotation] = self._last if found is None else found
            self._last = self._hidden[frame.rotation]
            return self._last
        found = _orientation(data)
        self._last = self._last if found is None else found
        return self._last


def _orientation(matrix: Any) -> int | None:
    """EXIF's orientation of a display matrix, nine 16.16 numbers; None where there is none."""
    if matrix is None:
        return None
    numbers = memoryview(bytes(matrix)).cast("i")
    a, b, c, d = (float(numbers[place]) for place in (0, 1, 3, 4))
    first, second = math.hypot(a, b) or 1.0, math.hypot(c, d) or 1.0
    key = tuple(_whole(value) for value in (a / first, b / first, c / second, d / second))
    return _ORIENTATIONS.get(key, 1)


def _whole(value: float) -> int | None:
    return round(value) if abs(value - round(value)) <= _RIGHT_ANGLE else None


def _with_known_side_data(frame: Any, stream: Any) -> Any:
    """The frame without side data of kinds that PyAV has no name for, by FFmpeg's own filter."""
    from av.filter import Graph
    from av.sidedata.sidedata import Type

    graph: Any = Graph()
    last = graph.add_buffer(template=stream)
    for kind in sorted(set(range(_KINDS)) - {known.value for known in Type}):
        following = graph.add("sidedata", f"mode=delete:type={kind}")
        last.link_to(following)
        last = following
    last.link_to(graph.add("buffersink"))
    graph.configure()
    graph.push(frame)
    return graph.pull()


def pixel_shape(stream: Any) -> float:
    """A pixel's width by its height; 1 where the file does not say, or says what cannot be."""
    ratio = float(stream.sample_aspect_ratio or 1)
    if not 1 / _MOST_STRETCH <= ratio <= _MOST_STRETCH or abs(ratio - 1) <= _SQUARE:
        return 1.0
    return ratio
