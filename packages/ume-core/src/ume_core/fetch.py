"""Bytes of a media source, under the access policy and the size limits."""

from __future__ import annotations

import base64
import binascii
import http.client
import ipaddress
import re
import socket
import ssl
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes, urljoin, urlsplit

from ume_core.errors import LimitExceeded, MediaError, PolicyViolation, UmeError
from ume_core.limits import Limits, Policy

_MAX_REDIRECTS = 5
_CHUNK = 1 << 20
_URL = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]+:")


@dataclass(frozen=True)
class Access:
    """The policy and limits one engine reads media under."""

    policy: Policy = field(default_factory=Policy)
    limits: Limits = field(default_factory=Limits)


def read_source(source: str | Path | bytes, access: Access) -> bytes:
    """The bytes behind a path, `file://`, `http(s)://` or `data:` URL.

    Raises:
        PolicyViolation: the policy forbids the file or URL.
        LimitExceeded: more bytes than `Limits.file_bytes`.
        MediaError: it cannot be read.
    """
    if isinstance(source, bytes):
        _check_bytes(len(source), "the data", access.limits)
        return source
    if isinstance(source, Path):
        return _read_file(source, access)
    if source.startswith("data:"):
        return _decode_data_url(source, access.limits)
    if source.startswith(("http://", "https://")):
        return _download(source, access)
    if source.startswith("file://"):
        return _read_file(_path_of(source), access)
    if _URL.match(source) and not Path(source).exists():
        scheme = source.split(":", 1)[0]
        raise MediaError(f"unknown URL scheme {scheme!r}", fix="use file, http, https or data")
    return _read_file(Path(source), access)


def describe(source: object) -> str:
    """A short name of a source for error messages."""
    if isinstance(source, (str, Path)):
        name = str(source)
        return name if len(name) <= 80 else name[:60] + "…" + name[-16:]
    return f"the {type(source).__name__}"


def _path_of(url: str) -> Path:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise MediaError(f"{url!r} names another host", fix="write file:///absolute/path")
    return Path(unquote(parts.path))


def _read_file(path: Path, access: Access) -> bytes:
    if not access.policy.files:
        raise PolicyViolation(
            f"local files are not allowed here ({path})", fix="send the file's bytes instead"
        )
    try:
        real = path.expanduser().resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise MediaError(f"no such file: {path}", fix="check the path") from error
    roots = access.policy.roots
    if roots is not None and not any(real.is_relative_to(root.resolve()) for root in roots):
        raise PolicyViolation(
            f"{path} is outside the allowed folders", fix="move it below one of policy.roots"
        )
    if not real.is_file():
        raise MediaError(f"{path} is not a regular file", fix="name an image or video file")
    try:
        _check_bytes(real.stat().st_size, str(path), access.limits)
        data = real.read_bytes()
    except OSError as error:
        reason = error.strerror or error
        raise MediaError(f"cannot read {path}: {reason}", fix="check its permissions") from error
    if not data:
        raise MediaError(f"{path} is empty (0 bytes)", fix="replace the file")
    return data


def _check_bytes(size: int, name: str, limits: Limits) -> None:
    if size > limits.file_bytes:
        raise LimitExceeded(
            f"{name} has {size:,} bytes, more than limits.file_bytes ({limits.file_bytes:,})",
            fix="raise the limit or shrink the file",
        )


def _decode_data_url(url: str, limits: Limits) -> bytes:
    head, comma, body = url.partition(",")
    if not comma:
        raise MediaError("a data: URL without a comma", fix="write data:image/png;base64,…")
    _check_bytes(len(body) * 3 // 4, "the data: URL", limits)
    if not head.endswith(";base64"):
        return unquote_to_bytes(body)
    try:
        return base64.b64decode(unquote(body), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MediaError("the data: URL is not valid base64", fix="encode it again") from error


def _download(url: str, access: Access) -> bytes:
    if not access.policy.urls:
        raise PolicyViolation("URLs are not allowed here", fix="send the file's bytes instead")
    deadline = time.monotonic() + access.limits.url_seconds
    for _ in range(_MAX_REDIRECTS + 1):
        try:
            target = _get(url, access, deadline)
        except UmeError:  # PolicyViolation is an OSError too
            raise
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            raise MediaError(
                f"cannot fetch {describe(url)}: {error}", fix="check the URL and the network"
            ) from error
        if isinstance(target, bytes):
            return target
        url = urljoin(url, target)
        if not url.startswith(("http://", "https://")):
            raise PolicyViolation(f"{describe(url)}: redirect to another scheme", fix="use http(s)")
    raise MediaError(f"{describe(url)}: more than {_MAX_REDIRECTS} redirects", fix="check the URL")


def _get(url: str, access: Access, deadline: float) -> bytes | str:
    """One request: the body, or the redirect's target."""
    parts = urlsplit(url)
    host = parts.hostname
    if not host:
        raise MediaError(f"{describe(url)} has no host", fix="check the URL")
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise MediaError(f"{describe(url)}: {error}", fix="check the URL") from error
    address = _resolve(host, port, access.policy)
    connection = _connect(parts.scheme, host, port, address, deadline)
    try:
        target = parts.path or "/"
        connection.request("GET", target + (f"?{parts.query}" if parts.query else ""))
        response = connection.getresponse()
        if response.status in (301, 302, 303, 307, 308):
            return response.getheader("Location") or ""
        if response.status != 200:
            raise MediaError(
                f"{describe(url)} answered {response.status} {response.reason}", fix="check the URL"
            )
        declared = response.getheader("Content-Length")
        if declared is not None and declared.isdigit():
            _check_bytes(int(declared), describe(url), access.limits)
        return _read_body(response, url, access, deadline)
    finally:
        connection.close()


def _read_body(
    response: http.client.HTTPResponse, url: str, access: Access, deadline: float
) -> bytes:
    body = bytearray()
    while chunk := response.read1(_CHUNK):
        body += chunk
        _check_bytes(len(body), describe(url), access.limits)
        if time.monotonic() > deadline:
            raise MediaError(
                f"{describe(url)} took longer than limits.url_seconds "
                f"({access.limits.url_seconds:g} s)",
                fix="raise the limit or download it first",
            )
    if not body:
        raise MediaError(f"{describe(url)} is empty (0 bytes)", fix="check the URL")
    return bytes(body)


def _resolve(host: str, port: int, policy: Policy) -> str:
    """One address of `host` that the policy allows.

    The connection then goes to this very address, so a name that resolves differently the second
    time (DNS rebinding) gains nothing.
    """
    addresses = [
        str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    ]
    if policy.private_networks:
        return addresses[0]
    for address in addresses:
        if not ipaddress.ip_address(address.split("%")[0]).is_global:
            raise PolicyViolation(
                f"{host} resolves to {address}, a private address",
                fix="set Policy(private_networks=True) if you trust it",
            )
    return addresses[0]


def _connect(
    scheme: str, host: str, port: int, address: str, deadline: float
) -> http.client.HTTPConnection:
    timeout = max(0.1, deadline - time.monotonic())
    sock = socket.create_connection((address, port), timeout=timeout)
    if scheme == "https":
        sock = ssl.create_default_context().wrap_socket(sock, server_hostname=host)
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    connection.sock = sock
    return connection
