"""Pixels to the vision tower's input: resize, normalise, cut into patches.

Equal to transformers' Qwen2-VL image processor on the image the published recipe hands it (PIL
bicubic resize to `smart_resize`'s size, then the checkpoint's rescaling, mean and deviation,
patches in merge-window order). The recipe resizes an image twice: first qwen-vl-utils by the
item's own bounds or its defaults, then the processor by the bounds in force.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image as PILImage

from ume_core.conventions import OFFICIAL
from ume_core.errors import InvalidItem, LimitExceeded
from ume_core.fetch import Access, read_source
from ume_core.items import Image, Video
from ume_core.media import Picture, load_video, open_picture
from ume_qwen.cache import ByteCache
from ume_qwen.resize import resize_frames
from ume_qwen.sizes import (
    FACTOR,
    MERGE,
    PATCH,
    TEMPORAL_PATCH,
    UTILS_MAX_PIXELS,
    UTILS_MIN_PIXELS,
    VIDEO_MAX_PIXELS,
    VIDEO_MIN_PIXELS,
    VideoBudget,
    frame_pixels,
    smart_resize,
)

Pixels = npt.NDArray[np.float32]

# Defaults of transformers' Qwen2VLImageProcessor; checkpoints state their own.
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
# Patches remembered for media that come again soon; those of one image are mostly below 20 MB.
_RECENT_BYTES = 128 * 1024 * 1024
DEFAULT_MIN_PIXELS = 56 * 56
DEFAULT_MAX_PIXELS = 28 * 28 * 1280


@dataclass(frozen=True)
class VisualInput:
    """One image or video, ready for the vision tower.

    Attributes:
        patches: float32 (t * h * w, 3 * 2 * 14 * 14), in merge-window order.
        grid: (t, h, w) in patches; t counts pairs of frames.
        kind: which placeholder token stands for it.
        seconds_per_grid: seconds between temporal patches (Qwen2.5-VL positions); 0 for images.
        digest: of all of these and of the scope; media with equal digests give equal states.
        warnings: what was noticed while it was read, as sentences.
    """

    patches: Pixels
    grid: tuple[int, int, int]
    kind: Literal["image", "video"]
    digest: bytes
    seconds_per_grid: float = 0.0
    warnings: tuple[str, ...] = ()

    @property
    def tokens(self) -> int:
        """Tokens it takes in the prompt."""
        return self.grid[0] * self.grid[1] * self.grid[2] // MERGE**2


@dataclass(frozen=True)
class PatchConfig:
    """How pixels become patches: a checkpoint's processor settings (`ume_qwen.processor`).

    Attributes:
        min_pixels: least height x width of a resized image.
        max_pixels: most height x width of a resized image.
        mean: per channel, of rescaled values; 0 where a checkpoint does not normalise.
        std: per channel, of rescaled values; 1 where a checkpoint does not normalise.
        rescale_factor: what bytes are multiplied with first; 1 where it does not rescale.
        video_pixels: least and most height x width of a resized frame; None for an image's.
    """

    min_pixels: int = DEFAULT_MIN_PIXELS
    max_pixels: int = DEFAULT_MAX_PIXELS
    mean: tuple[float, ...] = _CLIP_MEAN
    std: tuple[float, ...] = _CLIP_STD
    rescale_factor: float = 1 / 255
    video_pixels: tuple[int, int] | None = None

    @property
    def video_bounds(self) -> tuple[int, int] | None:
        """Least and most pixels of a frame where the recipe's own are too many, else None."""
        low, high = self.video_pixels or (self.min_pixels, self.max_pixels)
        high = min(high, self.max_pixels)  # as where one processor serves both
        if high >= VIDEO_MAX_PIXELS:
            return None
        low = min(low, high)
        return (low if high < VIDEO_MIN_PIXELS else VIDEO_MIN_PIXELS), high

    def table(self) -> Pixels:
        """The model's input (channels, 256) for every value of a byte."""
        values = np.arange(256, dtype=np.float64)[None, :] * self.rescale_factor
        mean, std = (np.array(v, dtype=np.float64)[:, None] for v in (self.mean, self.std))
        return ((values - mean) / std).astype(np.float32)


class Patchifier:
    """Opens media under the access rules and cuts them into patches. Thread-safe."""

    def __init__(
        self,
        config: PatchConfig,
        access: Access,
        *,
        frame_lists: str = OFFICIAL.frame_lists,
        draft: bool = False,
    ) -> None:
        """Prepare the pixel tables.

        Args:
            config: the checkpoint's settings with the pixel bounds in force.
            access: what may be read, and how much.
            frame_lists: see `ume_core.conventions.Conventions`.
            draft: decode large JPEGs at a fraction of their size.
        """
        self.config = config
        self.access = access
        self._frame_lists = frame_lists
        self._draft = draft
        self._recent = ByteCache[bytes, VisualInput](_RECENT_BYTES, lambda v: v.patches.nbytes)
        # One table look-up per byte: exact, and cheaper than two float passes over the image.
        self._table = config.table()

    def __call__(self, media: Image | Video, scope: str = "") -> VisualInput:
        """Read, resize and patchify one image or video.

        Args:
            media: the image or video.
            scope: whose it is; what is remembered of it serves the same scope only.
        """
        if isinstance(media, Image):
            return self.image(media, scope)
        return _scoped(self.video(media), scope)

    def image(self, image: Image, scope: str = "") -> VisualInput:
        """Patches of one image; those of the same bytes under the same bounds are remembered."""
        source, data = image.source, None
        bounds = (image.min_pixels, image.max_pixels, image.resized_height, image.resized_width)
        if isinstance(source, (str, Path, bytes)):
            data = read_source(source, self.access)
            return self._remembered(data, bounds, scope, lambda: self._image(image, data))
        opened = open_picture(image, self.access)
        key = opened.image.tobytes() + repr((opened.image.size, opened.warnings)).encode()
        return self._remembered(key, bounds, scope, lambda: self._image(image, None, opened))

    def _image(
        self, image: Image, data: bytes | None, opened: Picture | None = None
    ) -> VisualInput:
        sizes: list[tuple[int, int]] = []

        def fit(source: tuple[int, int]) -> tuple[int, int]:
            """The (width, height) wanted of a picture of some (width, height)."""
            sizes[:] = self._image_sizes(image, source)
            self.check_tokens(1, sizes[-1])
            return sizes[-1][1], sizes[-1][0]

        if opened is None:
            opened = open_picture(image, self.access, data, fit if self._draft else None)
        picture = opened.image
        if not sizes:
            fit(picture.size)
        # A draft's pixels are its own already: one resize is enough.
        pixels = np.asarray(_resized(picture, *(sizes[-1:] if self._draft else sizes)))
        warnings = (*opened.warnings, *self._clamped(image, *sizes))
        return self._visual(np.stack([pixels, pixels]), "image", warnings=warnings)

    def _remembered(
        self, content: bytes, bounds: tuple[int | None, ...], scope: str,
        make: Callable[[], VisualInput],
    ) -> VisualInput:  # fmt: skip
        digest = blake2b(repr((bounds, scope)).encode(), digest_size=16)
        digest.update(content)
        key = digest.digest()
        found = self._recent.get(key)
        if found is None:
            found = _scoped(make(), scope)
            self._recent.put(key, found)
        return found

    def video(self, video: Video) -> VisualInput:
        """Patches of one video."""
        frames = load_video(video, self.access)
        pictures = frames.images
        if video.frames is None:
            pixels = self._frames_together(video, pictures)
        elif self._frame_lists == "utils-0.0.11":
            pixels = self._frames_like_images(video, pictures)
        else:
            pixels = self._frames_together(video, [self._listed_frame(video, p) for p in pictures])
        seconds = TEMPORAL_PATCH / frames.sample_fps
        return self._visual(pixels, "video", seconds, warnings=frames.warnings)

    def _frames_like_images(
        self, video: Video, pictures: list[PILImage.Image]
    ) -> npt.NDArray[np.uint8]:
        """A list's frames as qwen-vl-utils 0.0.11 and the processor after it resize them.

        Each frame is an image of its own there (`fetch_video` calls `fetch_image`); the processor
        of transformers 4.49 then resizes each with Pillow, by its own bounds.
        """
        sizes = [self._image_sizes(video, p.size) for p in pictures]
        self.check_tokens(len(pictures) // TEMPORAL_PATCH, sizes[0][1])
        resized = [_resized(p, *s) for p, s in zip(pictures, sizes, strict=True)]
        _check_one_size(resized)
        return np.stack([np.asarray(p) for p in resized])

    def _frames_together(
        self, video: Video, pictures: list[PILImage.Image]
    ) -> npt.NDArray[np.uint8]:
        """Frames resized together, as qwen-vl-utils resizes those of a file."""
        _check_one_size(pictures)
        width, height = pictures[0].size
        if video.resized_height and video.resized_width:
            bounds = self.config.min_pixels, self.config.max_pixels
            height, width = video.resized_height, video.resized_width
        else:
            bounds = frame_pixels(self._video_budget(video), len(pictures))
        low, high = bounds
        size = smart_resize(height, width, min_pixels=low, max_pixels=high)
        self.check_tokens(len(pictures) // TEMPORAL_PATCH, size)
        return resize_frames(np.stack([np.asarray(p) for p in pictures]), size)

    def _visual(
        self,
        frames: npt.NDArray[np.uint8],
        kind: Literal["image", "video"],
        seconds: float = 0.0,
        *,
        warnings: tuple[str, ...],
    ) -> VisualInput:
        count, height, width, _ = frames.shape
        grid = (count // TEMPORAL_PATCH, height // PATCH, width // PATCH)
        digest = blake2b(f"{kind} {grid} {seconds!r}".encode(), digest_size=16)
        # The bytes before they are cut are a tenth of the patches; both frames of an image are one.
        digest.update((frames if kind == "video" else frames[:1]).tobytes())
        return VisualInput(self.cut(frames), grid, kind, digest.digest(), seconds, warnings)

    def _listed_frame(self, video: Video, picture: PILImage.Image) -> PILImage.Image:
        """A frame of a list as qwen-vl-utils 0.0.14 prepares it before the common resize.

        Its `fetch_video` hands `fetch_image` the factor 28 as a patch size, so sides become
        multiples of 56 first. Kept, since the recipe's pixels come from it.
        """
        factor = 2 * FACTOR
        low = video.min_pixels if video.min_pixels is not None else 4 * factor**2
        high = video.max_pixels if video.max_pixels is not None else 16384 * factor**2
        width, height = picture.size
        if video.resized_height and video.resized_width:
            height, width = video.resized_height, video.resized_width
        new_h, new_w = smart_resize(
            height, width, min_pixels=low, max_pixels=max(low, high), factor=factor
        )
        self.check_tokens(1, (new_h, new_w))
        return picture.resize((new_w, new_h), PILImage.Resampling.BICUBIC)

    def _image_sizes(
        self, media: Image | Video, source: tuple[int, int]
    ) -> tuple[tuple[int, int], tuple[int, int]]:
        """The (height, width) that qwen-vl-utils gives a picture, and then the processor.

        Args:
            media: the image, or the video whose list holds the frame.
            source: (width, height) of the picture.

        Raises:
            LimitExceeded: the item's own bounds contradict each other, or are beyond the limits.
        """
        low = media.min_pixels if media.min_pixels is not None else UTILS_MIN_PIXELS
        high = media.max_pixels if media.max_pixels is not None else UTILS_MAX_PIXELS
        width, height = source
        if media.resized_height and media.resized_width:
            height, width = media.resized_height, media.resized_width
            low, high = UTILS_MIN_PIXELS, UTILS_MAX_PIXELS
        if high < low:
            raise LimitExceeded(
                f"the picture's max_pixels ({high:,}) is below its min_pixels ({low:,})",
                fix="lower min_pixels or raise max_pixels",
            )
        first = smart_resize(height, width, min_pixels=low, max_pixels=high)
        most = self.access.limits.image_pixels
        if first[0] * first[1] > most:
            raise LimitExceeded(
                f"the picture would be resized to {first[1]:,}x{first[0]:,} pixels, more than "
                f"limits.image_pixels ({most:,})",
                fix="lower min_pixels, max_pixels or the size asked for",
            )
        bounds = self.config.min_pixels, self.config.max_pixels
        return first, smart_resize(*first, min_pixels=bounds[0], max_pixels=bounds[1])

    def _clamped(
        self, image: Image, asked: tuple[int, int], given: tuple[int, int]
    ) -> tuple[str, ...]:
        """A warning where the item's own bounds did not hold against the engine's."""
        own = (image.min_pixels, image.max_pixels, image.resized_height)
        if asked == given or own == (None, None, None):
            return ()
        low, high = self.config.min_pixels, self.config.max_pixels
        return (
            f"the image was resized to {given[1]}x{given[0]}, not to the {asked[1]}x{asked[0]} "
            f"that the item asks for: the model takes {low:,} to {high:,} pixels. Fix: change "
            "min_pixels or max_pixels of the item, or those of load()",
        )

    def check_tokens(self, steps: int, size: tuple[int, int]) -> None:
        """Refuse what could not fit a prompt, before its pixels are resized."""
        tokens = steps * size[0] * size[1] // FACTOR**2
        bound = self.access.limits.input_tokens
        if tokens > bound:
            raise LimitExceeded(
                f"the picture or video takes {tokens:,} tokens, more than limits.input_tokens "
                f"({bound:,})",
                fix="lower max_pixels or total_pixels, or pass fewer frames",
            )

    def _video_budget(self, video: Video) -> VideoBudget:
        """The video's pixel limits; the published ones give way to a smaller checkpoint's."""
        budget = VideoBudget(video.min_pixels, video.max_pixels, video.total_pixels)
        bounds = self.config.video_bounds
        if bounds is None:
            return budget
        return VideoBudget(
            budget.min_pixels if budget.min_pixels is not None else bounds[0],
            budget.max_pixels if budget.max_pixels is not None else bounds[1],
            budget.total_pixels,
        )

    def cut(self, frames: npt.NDArray[np.uint8]) -> Pixels:
        """uint8 (T, H, W, 3), sides multiples of 28 -> float32 (T/2 * H/14 * W/14, 1176)."""
        count, height, width, channels = frames.shape
        shape = (
            count // TEMPORAL_PATCH, TEMPORAL_PATCH,
            height // FACTOR, MERGE, PATCH,
            width // FACTOR, MERGE, PATCH,
            channels,
        )  # fmt: skip
        # Axes to (t, H, W, mh, mw, channel, frame, ph, pw): each patch's values become one row.
        windows = np.transpose(np.reshape(frames, shape), (0, 2, 5, 3, 6, 8, 1, 4, 7))
        rows = count // TEMPORAL_PATCH * (height // PATCH) * (width // PATCH)
        bytes_ = np.reshape(np.ascontiguousarray(windows), (rows, channels, -1))
        out = np.empty(bytes_.shape, dtype=np.float32)
        for channel in range(channels):
            np.take(self._table[channel], bytes_[:, channel], out=out[:, channel])
        return np.reshape(out, (rows, -1))

    def pixels(self, visual: VisualInput) -> npt.NDArray[np.uint8]:
        """The resized frames that `cut` made patches of: uint8 (T, H, W, 3)."""
        times, height, width = visual.grid
        values = np.reshape(visual.patches, (len(visual.patches), len(self._table), -1))
        bytes_ = np.empty(values.shape, dtype=np.uint8)
        for channel, row in enumerate(self._table):  # rises, and holds every value
            bytes_[:, channel] = np.searchsorted(row, values[:, channel])
        shape = (
            times, height // MERGE, width // MERGE, MERGE, MERGE,
            len(self._table), TEMPORAL_PATCH, PATCH, PATCH,
        )  # fmt: skip
        # Axes back from `cut`'s to (t, frame, H, mh, ph, W, mw, pw, channel).
        frames = np.transpose(np.reshape(bytes_, shape), (0, 6, 1, 3, 7, 2, 4, 8, 5))
        size = (times * TEMPORAL_PATCH, height * PATCH, width * PATCH, len(self._table))
        return np.reshape(np.ascontiguousarray(frames), size)


def _scoped(visual: VisualInput, scope: str) -> VisualInput:
    """The same under a digest of its scope."""
    if not scope:
        return visual
    digest = blake2b(scope.encode(), digest_size=16)
    digest.update(visual.digest)
    return replace(visual, digest=digest.digest())


def _check_one_size(frames: list[PILImage.Image]) -> None:
    if any(f.size != frames[0].size for f in frames):
        raise InvalidItem("the video's frames have different sizes", fix="resize them alike")


def _resized(picture: PILImage.Image, *sizes: tuple[int, int]) -> PILImage.Image:
    """The picture resized to one (height, width) after the other."""
    for height, width in sizes:
        if picture.size != (width, height):
            picture = picture.resize((width, height), PILImage.Resampling.BICUBIC)
    return picture
