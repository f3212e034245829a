"""Pictures and clips are upright, whatever says that their pixels are turned."""

from __future__ import annotations

import base64
import io
import struct
import threading
import zlib
from collections.abc import Callable
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import ExifTags, ImageOps, features
from PIL import Image as PILImage

from ume_core import LimitExceeded, Limits, MediaError, Policy
from ume_core.fetch import Access
from ume_core.items import Image, Video
from ume_core.media import load_video, open_image, open_picture, pictures
from ume_qwen.patches import PatchConfig, Patchifier

Difference = Callable[[PILImage.Image, PILImage.Image], float]
Clip = Callable[..., Path]
ORIENTATIONS = range(1, 9)
# What a camera held so stores of an upright scene: the inverse of each orientation.
STORED = {
    2: PILImage.Transpose.FLIP_LEFT_RIGHT, 3: PILImage.Transpose.ROTATE_180,
    4: PILImage.Transpose.FLIP_TOP_BOTTOM, 5: PILImage.Transpose.TRANSPOSE,
    6: PILImage.Transpose.ROTATE_90, 7: PILImage.Transpose.TRANSVERSE,
    8: PILImage.Transpose.ROTATE_270,
}  # fmt: skip
CONTAINERS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 97}, "PNG": {}, "WEBP": {"lossless": True}, "TIFF": {},
    "TIFF-LZW": {"compression": "tiff_lzw"}, "MPO": {"quality": 97}, "AVIF": {"quality": 95},
}  # fmt: skip


def stored(upright: PILImage.Image, orientation: int) -> PILImage.Image:
    method = STORED.get(orientation)
    return upright if method is None else upright.transpose(method)


def exif(orientation: int) -> PILImage.Exif:
    tags = PILImage.Exif()
    tags[ExifTags.Base.Orientation] = orientation
    return tags


def encode(image: PILImage.Image, container: str, orientation: int) -> bytes:
    kind = container.split("-")[0]
    if kind == "AVIF" and "avif" not in features.get_supported():
        pytest.skip("this Pillow has no AVIF")
    buffer = io.BytesIO()
    more = {"save_all": True, "append_images": [image]} if kind == "MPO" else {}
    image.save(buffer, kind, exif=exif(orientation), **more, **CONTAINERS[container])
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("container", CONTAINERS)
def test_a_turned_picture_is_upright_in_every_container(
    container: str, orientation: int, scene: PILImage.Image, difference: Difference
) -> None:
    data = encode(stored(scene, orientation), container, orientation)
    ours = open_image(Image(data), Access())
    assert difference(ours, scene) < 5
    oracle = ImageOps.exif_transpose(PILImage.open(io.BytesIO(data)))
    assert difference(ours, oracle) == 0


@pytest.mark.parametrize("orientation", [3, 6, 7])
def test_every_spelling_of_a_picture_gives_the_same_upright_pixels(
    orientation: int, scene: PILImage.Image, difference: Difference, tmp_path: Path
) -> None:
    data = encode(stored(scene, orientation), "PNG", orientation)
    path = tmp_path / "turned.png"
    path.write_bytes(data)
    lazy, loaded = PILImage.open(path), PILImage.open(path)
    loaded.load()
    spellings = [
        path, str(path), data, f"file://{path}", lazy, loaded, loaded.copy(),
        f"data:image/png;base64,{base64.b64encode(data).decode()}",
        ImageOps.exif_transpose(loaded), loaded.convert("RGBA"), loaded.convert("P"),
    ]  # fmt: skip
    for source in spellings:
        tolerance = 3 if getattr(source, "mode", "") == "P" else 0
        assert difference(open_image(Image(source), Access()), scene) <= tolerance, source
    frames = load_video(Video([path, lazy, data, loaded]), Access()).images
    assert [difference(frame, scene) for frame in frames] == [0, 0, 0, 0]


def test_a_turned_picture_from_a_url_is_upright(
    scene: PILImage.Image, difference: Difference
) -> None:
    data = encode(stored(scene, 6), "PNG", 6)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/a.png"
        image = open_image(Image(url), Access(Policy(private_networks=True)))
        server.shutdown()
    assert difference(image, scene) == 0


@pytest.mark.parametrize("container", ["PNG", "TIFF", "TIFF-LZW", "JPEG"])
def test_a_picture_turned_already_is_not_turned_again(
    container: str, scene: PILImage.Image, difference: Difference
) -> None:
    data = encode(stored(scene, 6), container, 6)
    once = PILImage.open(io.BytesIO(data))
    ImageOps.exif_transpose(once, in_place=True)
    copies = [once, once.copy(), once.convert("RGB"), once.crop((0, 0, *once.size))]
    again = open_image(Image(open_image(Image(data), Access())), Access())
    assert all(difference(open_image(Image(p), Access()), scene) < 5 for p in [*copies, again])


def test_the_callers_picture_stays_as_it_was(scene: PILImage.Image) -> None:
    theirs = PILImage.open(io.BytesIO(encode(stored(scene, 6), "PNG", 6)))
    open_image(Image(theirs), Access())
    assert theirs.size == (64, 96) and theirs.getexif()[ExifTags.Base.Orientation] == 6
    plain = scene.copy()
    plain.info["mine"] = 1
    open_image(Image(plain), Access())
    assert plain.info == {"mine": 1}


def _chunk(kind: bytes, body: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + body))
    return struct.pack(">I", len(body)) + kind + body + check


def test_a_png_may_state_its_orientation_behind_its_pixels(
    scene: PILImage.Image, difference: Difference
) -> None:
    buffer = io.BytesIO()
    stored(scene, 6).save(buffer, "PNG")
    end = _chunk(b"IEND", b"")
    body = buffer.getvalue().removesuffix(end)
    tags = exif(6).tobytes().removeprefix(b"Exif\0\0")
    data = body + _chunk(b"eXIf", tags) + end
    assert difference(open_image(Image(data), Access()), scene) == 0
    lazy = PILImage.open(io.BytesIO(data))
    assert difference(open_image(Image(lazy), Access()), scene) == 0


def test_orientation_in_xmp_alone_counts(scene: PILImage.Image, difference: Difference) -> None:
    packet = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/'
        b'22-rdf-syntax-ns#"><rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" '
        b'tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
    )
    buffer = io.BytesIO()
    stored(scene, 6).save(buffer, "JPEG", quality=97)
    body = b"http://ns.adobe.com/xap/1.0/\0" + packet
    segment = b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body
    data = buffer.getvalue()[:2] + segment + buffer.getvalue()[2:]
    assert difference(open_image(Image(data), Access()), scene) < 5


def _tags(resolution_type: int, orientation: int = 6) -> bytes:
    """EXIF with two entries: an orientation, and an XResolution of a wrong type."""
    entries = struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0)
    entries += struct.pack(">HHI4s", 0x011A, resolution_type, 4, b"abc\0")
    return b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", 2) + entries + b"\0\0\0\0"


def test_exif_that_cannot_be_written_anew_still_turns_the_picture(
    scene: PILImage.Image, difference: Difference
) -> None:
    buffer = io.BytesIO()
    stored(scene, 6).save(buffer, "JPEG", quality=97, exif=_tags(resolution_type=2))
    with pytest.raises(TypeError):  # what Pillow's own way does with such a photo
        ImageOps.exif_transpose(PILImage.open(io.BytesIO(buffer.getvalue())))
    assert difference(open_image(Image(buffer.getvalue()), Access()), scene) < 5


@pytest.mark.parametrize("value", [0, 9, 255, 65535])
def test_an_orientation_that_is_none_turns_nothing(
    value: int, scene: PILImage.Image, difference: Difference
) -> None:
    picture = open_picture(Image(encode(scene, "PNG", value)), Access())
    assert difference(picture.image, scene) == 0 and picture.warnings == ()


def test_damaged_exif_is_said_and_costs_no_picture(
    scene: PILImage.Image, difference: Difference
) -> None:
    buffer = io.BytesIO()
    scene.save(buffer, "WEBP", lossless=True, exif=b"Exif\0\0garbage!" * 3)
    picture = open_picture(Image(buffer.getvalue()), Access())
    assert difference(picture.image, scene) == 0
    (warning,) = picture.warnings
    assert "EXIF" in warning and "not turned" in warning
    frames = load_video(Video([scene, buffer.getvalue()]), Access())
    assert frames.warnings == (f"frame 1: {warning}",)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_jpeg_drafts_are_upright_and_of_the_upright_size(orientation: int) -> None:
    rng = np.random.default_rng(0)
    small = PILImage.fromarray(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8))
    scene = small.resize((1800, 1200), PILImage.Resampling.BICUBIC)
    data = encode(stored(scene, orientation), "JPEG", orientation)
    upright, turned = (
        Patchifier(PatchConfig(3136, 100_000), Access(), draft=True).image(Image(source))
        for source in (encode(scene, "JPEG", 1), data)
    )
    assert turned.grid == upright.grid
    assert np.abs(turned.patches - upright.patches).mean() < 0.05
    asked: list[tuple[int, int]] = []

    def quarter(size: tuple[int, int]) -> tuple[int, int]:
        asked.append(size)
        return size[0] // 4, size[1] // 4

    assert open_image(Image(data), Access(), draft=quarter).size == (450, 300)
    assert asked == [(1800, 1200)]


# Clips

ONE = 0x10000
# (a, b, c, d) of a display matrix, by the EXIF orientation that means the same
MATRICES = {
    1: (1, 0, 0, 1), 2: (-1, 0, 0, 1), 3: (-1, 0, 0, -1), 4: (1, 0, 0, -1),
    5: (0, 1, 1, 0), 6: (0, 1, -1, 0), 7: (0, -1, -1, 0), 8: (0, -1, 1, 0),
}  # fmt: skip


def set_matrix(path: Path, matrix: tuple[float, float, float, float]) -> Path:
    """Write a display matrix into the MP4's (only) track header."""
    data = bytearray(path.read_bytes())
    place = data.find(b"tkhd") + 44
    assert struct.unpack(">9i", data[place : place + 36])[:2] == (ONE, 0)
    a, b, c, d = (round(value * ONE) for value in matrix)
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 0x40000000)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_turned_clip_is_upright(
    orientation: int, scene: PILImage.Image, write_clip: Clip, difference: Difference
) -> None:
    lying = write_clip("lying.mp4", [stored(scene, orientation)] * 4, encoder={"crf": "1"})
    frames = load_video(Video(set_matrix(lying, MATRICES[orientation])), Access())
    assert all(difference(image, scene) < 5 for image in frames.images)
    assert frames.warnings == ()


@pytest.mark.parametrize("suffix", ["mkv", "mov"])
def test_the_matrix_of_other_containers_counts_too(
    suffix: str, scene: PILImage.Image, write_clip: Clip, difference: Difference, tmp_path: Path
) -> None:
    lying = write_clip("lying.mp4", [stored(scene, 6)] * 4, encoder={"crf": "1"})
    set_matrix(lying, MATRICES[6])
    with av.open(str(lying)) as source, av.open(str(tmp_path / f"x.{suffix}"), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    with av.open(str(tmp_path / f"x.{suffix}")) as written:
        if next(written.decode(video=0)).rotation == 0:
            pytest.skip("this FFmpeg does not copy the matrix")
    images = load_video(Video(tmp_path / f"x.{suffix}"), Access()).images
    assert all(difference(image, scene) < 5 for image in images)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_ffmpegs_own_matrix_of_each_exif_orientation_is_followed(
    orientation: int, scene: PILImage.Image, tmp_path: Path, difference: Difference
) -> None:
    """Two oracles: FFmpeg turns EXIF into a matrix, and Pillow turns the picture by EXIF."""
    data = encode(stored(scene, orientation), "JPEG", orientation)
    path = tmp_path / "motion.mov"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mjpeg", rate=5)
        stream.width, stream.height = stored(scene, orientation).size
        stream.pix_fmt = "yuvj420p"
        for number in range(4):
            packet = av.Packet(data)
            packet.pts = packet.dts = number
            packet.time_base, packet.stream = Fraction(1, 5), stream
            out.mux(packet)
    with av.open(str(path)) as clip:
        if orientation == 6 and next(clip.decode(video=0)).rotation == 0:
            pytest.skip("this FFmpeg does not read EXIF in motion JPEG")
    expected = ImageOps.exif_transpose(PILImage.open(io.BytesIO(data)))
    images = load_video(Video(path), Access()).images
    assert all(difference(image, expected) < 5 for image in images)


def test_an_orientation_stated_once_in_the_stream_holds_for_all_frames(
    scene: PILImage.Image, write_clip: Clip, tmp_path: Path, difference: Difference
) -> None:
    # H.264's display orientation message stands before the first picture only.
    lying = write_clip("lying.ts", [stored(scene, 6)] * 6, encoder={"crf": "1"})
    how = "h264_metadata=display_orientation=insert:rotate=270"
    with av.open(str(lying)) as source, av.open(str(tmp_path / "sei.ts"), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        insert = av.BitStreamFilterContext(how, source.streams.video[0])
        given = [packet for packet in source.demux(video=0) if packet.dts is not None]
        made = [packet for before in [*given, None] for packet in insert.filter(before)]
        for packet in made:
            packet.stream = stream
            out.mux(packet)
    frames = load_video(Video(tmp_path / "sei.ts"), Access())
    assert len(frames.images) == 4 and frames.warnings == ()
    assert all(difference(image, scene) < 5 for image in frames.images)


@pytest.mark.parametrize("matrix", [(0.8, 0.6, -0.6, 0.8), (0, 0, 0, 0)])
def test_a_matrix_that_is_no_right_angle_is_not_followed(
    matrix: tuple[float, float, float, float],
    scene: PILImage.Image,
    write_clip: Clip,
    difference: Difference,
) -> None:
    path = set_matrix(write_clip("odd.mp4", [scene] * 4, encoder={"crf": "1"}), matrix)
    assert difference(load_video(Video(path), Access()).images[0], scene) < 5


@pytest.mark.parametrize("shape", [Fraction(2, 1), Fraction(1, 2), Fraction(16, 11)])
def test_pixels_that_are_no_squares_are_stretched_as_players_do(
    shape: Fraction, scene: PILImage.Image, write_clip: Clip, difference: Difference
) -> None:
    width, height = (96, round(64 * shape)) if shape > 1 else (round(96 / shape), 64)
    wide = scene.resize((width, height), PILImage.Resampling.BICUBIC)
    squeezed = wide.resize((96, 64), PILImage.Resampling.BICUBIC)
    path = write_clip("dvd.mp4", [squeezed] * 4, pixel_shape=shape, encoder={"crf": "1"})
    image = load_video(Video(path), Access()).images[0]
    assert image.width / image.height == pytest.approx(float(96 * shape / 64), rel=0.02)
    assert difference(image.resize(squeezed.size), squeezed) < 8


def test_a_stretched_frame_is_measured_before_it_is_made(
    scene: PILImage.Image, write_clip: Clip
) -> None:
    path = write_clip("wide.mp4", [scene] * 4, pixel_shape=Fraction(8, 1))
    assert load_video(Video(path), Access()).images[0].size == (768, 64)
    with pytest.raises(LimitExceeded, match=r"limits\.image_pixels"):
        load_video(Video(path), Access(limits=Limits(image_pixels=20_000)))


def test_a_clip_is_laid_over_white_where_it_is_transparent(
    scene: PILImage.Image, write_clip: Clip, difference: Difference
) -> None:
    for alpha, expected in ((0, "white"), (255, "scene")):
        clear = scene.copy().convert("RGBA")
        clear.paste((200, 0, 0, alpha), (0, 0, 48, 64))
        path = write_clip("clear.mov", [clear] * 4, codec="qtrle", pix_fmt="argb")
        left = load_video(Video(path), Access()).images[0].getpixel((10, 10))
        assert left == ((255, 255, 255) if expected == "white" else (200, 0, 0))
    unused = scene.convert("RGBA")
    unused.putalpha(0)  # recorders that write four bytes a pixel leave the fourth at zero
    path = write_clip("unused.mov", [unused] * 4, codec="qtrle", pix_fmt="argb")
    assert difference(load_video(Video(path), Access()).images[0], scene) == 0


def _with_cover(path: Path, scene: PILImage.Image, clip: bool) -> Path:
    """An MP4 whose first stream is its cover picture, as drones write it."""
    from av.stream import Disposition

    cover = av.VideoFrame.from_image(PILImage.new("RGB", (64, 64), "navy"))
    with av.open(str(path), "w") as out:
        thumbnail = out.add_stream("mjpeg", rate=1)
        thumbnail.width = thumbnail.height = 64
        thumbnail.pix_fmt = "yuvj420p"
        thumbnail.disposition = Disposition.attached_pic.value
        stream = out.add_stream("libx264", rate=10, options={"crf": "1"}) if clip else None
        if stream is not None:
            stream.width, stream.height, stream.pix_fmt = *scene.size, "yuv420p"
        else:
            sound = out.add_stream("aac", rate=8000)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.rate = 8000
            out.mux(sound.encode(frame))
            out.mux(sound.encode())
        out.mux(thumbnail.encode(cover.reformat(format="yuvj420p")))
        out.mux(thumbnail.encode())
        if stream is not None:
            for _ in range(6):
                out.mux(stream.encode(av.VideoFrame.from_image(scene)))
            out.mux(stream.encode())
    return path


def _covers_first(path: Path) -> Path:
    """Put `udta`, where the cover is, before the tracks, so that FFmpeg numbers it 0."""

    def boxes(data: bytes, start: int, end: int) -> list[tuple[bytes, int, int]]:
        found: list[tuple[bytes, int, int]] = []
        while start < end:
            size = int.from_bytes(data[start : start + 4], "big")
            found.append((data[start + 4 : start + 8], start, start + size))
            start += size
        return found

    data = path.read_bytes()
    ((_, start, end),) = [box for box in boxes(data, 0, len(data)) if box[0] == b"moov"]
    order = {b"mvhd": 0, b"udta": 1}
    kids = sorted(boxes(data, start + 8, end), key=lambda box: order.get(box[0], 2))
    moved = b"".join(data[a:b] for _, a, b in kids)
    path.write_bytes(data[: start + 8] + moved + data[end:])
    return path


def test_a_cover_picture_is_not_the_clip(
    scene: PILImage.Image, tmp_path: Path, difference: Difference
) -> None:
    path = _covers_first(_with_cover(tmp_path / "drone.mp4", scene, clip=True))
    with av.open(str(path)) as clip:
        assert [s.codec_context.name for s in clip.streams] == ["mjpeg", "h264"]
    assert difference(load_video(Video(path), Access()).images[0], scene) < 5


def test_a_song_with_a_cover_is_no_video(scene: PILImage.Image, tmp_path: Path) -> None:
    path = _with_cover(tmp_path / "song.mp4", scene, clip=False)
    with pytest.raises(MediaError, match="only a cover picture"):
        load_video(Video(path), Access())


@pytest.mark.parametrize("orientation", [1, 6, 8])
def test_a_phones_heic_is_upright(orientation: int) -> None:
    heif: Any = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    upright = PILImage.new("RGB", (64, 96), "white")
    upright.paste("red", (0, 0, 64, 30))
    turned = STORED.get(orientation)
    stored = upright if turned is None else upright.transpose(turned)
    exif = PILImage.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    buffer = io.BytesIO()
    stored.save(buffer, "HEIF", quality=95, exif=exif.tobytes())
    seen = open_image(Image(buffer.getvalue()), Access())
    assert seen.size == (64, 96)
    np.testing.assert_allclose(np.asarray(seen.resize((1, 8)))[0, 0], (255, 0, 0), atol=8)
    np.testing.assert_allclose(np.asarray(seen.resize((1, 8)))[-1, 0], (255, 255, 255), atol=8)


def test_heic_without_its_decoder_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "_known_formats", lambda: ("PNG",))
    data = bytes.fromhex("0000001c66747970686569630000000068656963") + bytes(40)
    with pytest.raises(MediaError, match=r"is HEIC, which needs pillow-heif\. Fix: pip install"):
        open_image(Image(data), Access())


def test_a_heic_bomb_and_a_cut_heic_are_refused() -> None:
    heif: Any = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    buffer = io.BytesIO()
    PILImage.new("RGB", (640, 480), "red").save(buffer, "HEIF")
    with pytest.raises(LimitExceeded, match="image_pixels"):
        open_image(Image(buffer.getvalue()), Access(limits=Limits(image_pixels=1000)))
    with pytest.raises(MediaError):
        open_image(Image(buffer.getvalue()[:-60]), Access())
