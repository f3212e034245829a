"""Bytes of a media source, under the access policy and the size limits."""

from __future__ import annotations

import base64
import binascii
import errno
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from posixpath import splitext
from urllib.parse import unquote, unquote_to_bytes

from ume_core.errors import EngineUnavailable, LimitExceeded, MediaError, PolicyViolation
from ume_core.items import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from ume_core.limits import Limits, Policy
from ume_core.pdf import can_draw, draw_page, is_pdf, split_page

_URL = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]+:")
_CREDENTIALS = re.compile(r"^((?!file:)[a-z][a-z0-9+.-]*:/*)[^/?#]*@", re.IGNORECASE)
# A password with a "/" that nobody quoted ends the authority too early, at no valid port.
_BROKEN_CREDENTIALS = re.compile(
    r"^((?!file:)[a-z][a-z0-9+.-]*:/*)[^/?#@]*:(?!\d*[/?#])[^@]*@", re.IGNORECASE
)
# Long, of one alphabet, with no dot: it may be base64 that lost its "data:…,".
_BASE64 = re.compile(r"[A-Za-z0-9+/_\-\s]{48,}={0,2}\s*")
_BASE64_HINT = "; if it is base64, write it as a URL: 'data:image/png;base64,' + the string"
_MEDIA_DATA = re.compile(r"data:(image|video)/", re.IGNORECASE)
_MEDIA_URL = re.compile(r"(https?|file)://\S+$", re.IGNORECASE)
_LONGEST_NAME = 4096  # Linux' PATH_MAX
_ABSENT = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP))


@dataclass(frozen=True)
class Access:
    """The policy and limits one engine reads media under."""

    policy: Policy = field(default_factory=Policy)
    limits: Limits = field(default_factory=Limits)


def read_source(source: str | Path | bytes, access: Access) -> bytes:
    """The bytes behind a path, `file://`, `http(s)://` or `data:` URL; of a PDF's page, a PPM.

    Raises:
        PolicyViolation: the policy forbids the file or URL.
        LimitExceeded: more bytes than `Limits.file_bytes`.
        MediaError: it cannot be read.
    """
    if isinstance(source, bytes):
        check_bytes(len(source), "the data", access.limits)
        return source
    if isinstance(source, Path):
        return _read_local(str(source), lambda name: [Path(name)], access)
    trimmed = source.strip()
    scheme = trimmed[:8].lower()
    if scheme.startswith("data:"):
        return _decode_data_url(trimmed, access.limits)
    if scheme.startswith(("http://", "https://")):
        return _download(trimmed, access)
    if scheme.startswith("file://"):
        return _read_local(source.lstrip(), _paths_of, access)
    if scheme.startswith(("http:", "https:", "file:")):
        raise MediaError(
            f"{describe(source)} lacks the two slashes behind its colon",
            fix=f"write {scheme.partition(':')[0]}://…",
        )
    if _URL.match(source):
        raise MediaError(
            f"unknown URL scheme {source.split(':', 1)[0]!r}",
            fix="use file, http, https or data; wrap a path with a colon in Path()",
        )
    hint = _BASE64_HINT if _BASE64.fullmatch(source) else ""
    return _read_local(source, lambda name: [Path(name)], access, hint)


def media_warning(text: str, policy: Policy) -> str | None:
    """What to tell a user whose text is, as a whole, the name of a picture or clip.

    Whether a file exists is looked up only where the policy lets items name it.
    """
    name = text.strip()
    data = _MEDIA_DATA.match(name)
    if data is None and (len(name) > _LONGEST_NAME or "\n" in name):
        return None
    suffix = splitext(re.split("[?#]", name, maxsplit=1)[0])[1].lower()
    if (data and data[1] == "image") or suffix in IMAGE_SUFFIXES:
        kind, spelling = "picture", "Image"
    elif data or suffix in VIDEO_SUFFIXES:
        kind, spelling = "clip", "Video"
    elif is_pdf(name) and can_draw() and not _MEDIA_URL.match(name):
        kind, spelling = "page", "Image"
    else:
        return None
    is_url = data is not None or _MEDIA_URL.match(name) is not None
    if not is_url and not _may_name(Path(split_page(name)[0]), policy):
        return None
    return (
        f"the text names a {kind} ({describe(name)}) and is embedded as words. "
        f"Fix: to embed the {kind}, pass {spelling}(...) of it; the command takes it without --text"
    )


def _may_name(path: Path, policy: Policy) -> bool:
    """Whether it is a file that items may name."""
    real = _resolved(path) if policy.files else None
    try:
        return real is not None and _is_allowed(real, policy) and real.is_file()
    except (OSError, ValueError):
        return False


def describe(source: object) -> str:
    """A short name of a source for error messages, without the password a URL may hold."""
    if isinstance(source, (str, Path)):
        name = str(source)
        if not isinstance(source, Path):
            name = _CREDENTIALS.sub(r"\1…@", _BROKEN_CREDENTIALS.sub(r"\1…@", name.strip()))
        return name if len(name) <= 200 else name[:150] + "…" + name[-40:]
    return f"the {type(source).__name__}"


def check_bytes(size: int, name: str, limits: Limits) -> None:
    """Refuse more bytes than `Limits.file_bytes`.

    Raises:
        LimitExceeded: it is more.
    """
    if size > limits.file_bytes:
        raise LimitExceeded(
            f"{name} has {size:,} bytes, more than limits.file_bytes ({limits.file_bytes:,})",
            fix="raise the limit or shrink the file",
        )


def _read_local(
    source: str, paths_of: Callable[[str], list[Path]], access: Access, hint: str = ""
) -> bytes:
    """A local file, or a page of one; `paths_of` says what a name or URL may mean."""
    file, page = split_page(source)
    data = _read_file(paths_of(file), describe(file), access, hint)
    return draw_page(data, page, describe(file), access.limits) if is_pdf(file) else data


def _paths_of(url: str) -> list[Path]:
    """What a `file://` URL may name, the likeliest first.

    The rest behind `file://` is a path as it stands, "#", "?" and "%41" included: so
    qwen-vl-utils 0.0.14 reads it (`fetch_image`), and so the published README writes it. If there
    is no such file, it is read as RFC 8089 has it, which `Path.as_uri` writes.
    """
    rest = url[len("file://") :]
    decoded = unquote(rest)
    local = decoded.removeprefix("localhost") if decoded.startswith("localhost/") else decoded
    return [Path(name) for name in dict.fromkeys((rest, decoded, local))]


def _read_file(paths: list[Path], name: str, access: Access, hint: str = "") -> bytes:
    """The first of `paths` that the policy allows and that exists; `hint` ends a fix."""
    if not access.policy.files:
        raise PolicyViolation(
            f"local files are not allowed here ({name})", fix="send the file's bytes instead" + hint
        )
    # Before looking whether it exists: a refusal must not tell.
    found = [real for real in map(_resolved, paths) if real is not None]
    allowed = [real for real in found if _is_allowed(real, access.policy)]
    if found and not allowed:
        raise PolicyViolation(
            f"{name} is outside the allowed folders", fix="move it below a policy.roots" + hint
        )
    missing: OSError | None = None
    for real in allowed:
        try:
            return _read(real, name, access.limits)
        except (MediaError, LimitExceeded):
            raise
        except (OSError, ValueError) as error:
            if not isinstance(error, OSError) or error.errno not in _ABSENT:
                reason = getattr(error, "strerror", None) or error
                raise MediaError(
                    f"cannot read {name}: {reason}", fix="check its permissions and its disk"
                ) from error
            missing = error
    raise MediaError(f"no such file: {name}", fix="check the path" + hint) from missing


def _resolved(path: Path) -> Path | None:
    try:
        return path.expanduser().resolve()
    except (OSError, RuntimeError, ValueError):  # a name no system has, no home, a loop of links
        return None


def _is_allowed(real: Path, policy: Policy) -> bool:
    roots = policy.roots
    return roots is None or any(real.is_relative_to(root.resolve()) for root in roots)


def _read(path: Path, name: str, limits: Limits) -> bytes:
    # Not blocking on pipes; all checks are on the file that is then read.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as handle:
        status = os.fstat(handle.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise MediaError(f"{name} is not a regular file", fix="name an image or video file")
        check_bytes(status.st_size, name, limits)
        data = handle.read(limits.file_bytes + 1)  # some files have no size
    check_bytes(len(data), name, limits)
    if not data:
        raise MediaError(f"{name} is empty (0 bytes)", fix="replace the file")
    return data


def _decode_data_url(url: str, limits: Limits) -> bytes:
    """The data of a `data:` URL, in any base64 that browsers and libraries write.

    Line ends and blanks, percent signs, the URL-safe alphabet and missing padding are taken.
    """
    head, comma, body = url.partition(",")
    if not comma:
        raise MediaError("a data: URL without a comma", fix="write data:image/png;base64,…")
    check_bytes(len(body) * 3 // 4, "the data: URL", limits)
    if not re.search(r";\s*base64\s*$", head, re.IGNORECASE):
        data = unquote_to_bytes(body.encode("utf-8", "replace").decode())
        check_bytes(len(data), "the data: URL", limits)
        return data
    text = "".join(unquote(body).split()).rstrip("=").translate(str.maketrans("-_", "+/"))
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MediaError(
            "the data: URL is not valid base64",
            fix="write base64.b64encode(data).decode() behind its comma",
        ) from error


def _download(url: str, access: Access) -> bytes:
    if not access.policy.urls:
        raise PolicyViolation("URLs are not allowed here", fix="send the file's bytes instead")
    try:
        from ume_core.download import download  # urllib3 comes with the extra "http"
    except ImportError as error:
        raise EngineUnavailable(
            f"http(s) URLs need {error.name}",
            fix="pip install 'urllib3>=2.6.3' idna, or download the file and pass it",
        ) from error
    return download(url, access)
