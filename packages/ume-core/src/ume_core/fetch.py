"""Bytes of a media source, under the access policy and the size limits."""

from __future__ import annotations

import base64
import binascii
import contextlib
import http.client
import ipaddress
import os
import re
import socket
import ssl
import stat
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote, unquote_to_bytes, urljoin, urlsplit

from ume_core.errors import LimitExceeded, MediaError, PolicyViolation, UmeError
from ume_core.limits import Limits, Policy

_MAX_REDIRECTS = 5
_CHUNK = 1 << 20
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052
_NAT64_LOCAL = ipaddress.ip_network("64:ff9b:1::/48")  # RFC 8215
_PLATFORM = frozenset({ipaddress.ip_address("168.63.129.16")})  # Azure's host, publicly numbered
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
    scheme = source[:8].lower()
    if scheme.startswith("data:"):
        return _decode_data_url(source, access.limits)
    if scheme.startswith(("http://", "https://")):
        return _download(source, access)
    if scheme.startswith("file://"):
        return _read_file(_path_of(source), access)
    if _URL.match(source):
        raise MediaError(
            f"unknown URL scheme {source.split(':', 1)[0]!r}",
            fix="use file, http, https or data; wrap a path with a colon in Path()",
        )
    return _read_file(Path(source), access)


def describe(source: object) -> str:
    """A short name of a source for error messages."""
    if isinstance(source, (str, Path)):
        name = str(source)
        return name if len(name) <= 200 else name[:150] + "…" + name[-40:]
    return f"the {type(source).__name__}"


def _path_of(url: str) -> Path:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise MediaError(f"{describe(url)}: {error}", fix="check the URL") from error
    if parts.netloc not in ("", "localhost"):
        raise MediaError(f"{url!r} names another host", fix="write file:///absolute/path")
    return Path(unquote(parts.path))


def _read_file(path: Path, access: Access) -> bytes:
    name = describe(path)
    if not access.policy.files:
        raise PolicyViolation(
            f"local files are not allowed here ({name})", fix="send the file's bytes instead"
        )
    try:
        real = path.expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise MediaError(f"no such file: {name}", fix="check the path") from error
    roots = access.policy.roots
    # Before looking whether it exists: a refusal must not tell.
    if roots is not None and not any(real.is_relative_to(root.resolve()) for root in roots):
        raise PolicyViolation(
            f"{name} is outside the allowed folders", fix="move it below one of policy.roots"
        )
    try:
        # Not blocking on pipes; all checks are on the file that is then read.
        with os.fdopen(os.open(real, os.O_RDONLY | os.O_NONBLOCK), "rb") as handle:
            status = os.fstat(handle.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise MediaError(f"{name} is not a regular file", fix="name an image or video file")
            _check_bytes(status.st_size, name, access.limits)
            data = handle.read(access.limits.file_bytes + 1)  # some files have no size
    except MediaError:
        raise
    except FileNotFoundError as error:
        raise MediaError(f"no such file: {name}", fix="check the path") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MediaError(f"cannot read {name}: {reason}", fix="check its permissions") from error
    _check_bytes(len(data), name, access.limits)
    if not data:
        raise MediaError(f"{name} is empty (0 bytes)", fix="replace the file")
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
        return unquote_to_bytes(body.encode("utf-8", "replace").decode())
    try:
        return base64.b64decode("".join(unquote(body).split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MediaError("the data: URL is not valid base64", fix="encode it again") from error


def _download(url: str, access: Access) -> bytes:
    if not access.policy.urls:
        raise PolicyViolation("URLs are not allowed here", fix="send the file's bytes instead")
    seconds = access.limits.url_seconds
    deadline = time.monotonic() + seconds
    for _ in range(_MAX_REDIRECTS + 1):
        try:
            target = _get(url, access, deadline)
        except UmeError:  # PolicyViolation is an OSError too
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            late = time.monotonic() >= deadline
            reason = f"no answer within limits.url_seconds ({seconds:g} s)" if late else error
            raise MediaError(
                f"cannot fetch {describe(url)}: {reason}", fix="check the URL and the network"
            ) from error
        if isinstance(target, bytes):
            return target
        url = urljoin(url, quote(target, safe="%/:=&?~#+!$,;'@()*[]"))
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
    # A server that drips bytes keeps every single read short of its own timeout.
    watch = threading.Timer(max(0.1, deadline - time.monotonic()), _hang_up, [connection.sock])
    watch.daemon = True
    watch.start()
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
        length = int(declared) if declared and re.fullmatch("[0-9]{1,18}", declared) else None
        if length is not None:
            _check_bytes(length, describe(url), access.limits)
        body = _read_body(response, url, access, deadline)
        if length is not None and len(body) < length:
            raise MediaError(
                f"{describe(url)} ended after {len(body):,} of {length:,} bytes", fix="try again"
            )
        return body
    finally:
        watch.cancel()
        connection.close()


def _hang_up(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _read_body(
    response: http.client.HTTPResponse, url: str, access: Access, deadline: float
) -> bytes:
    body = bytearray()
    while chunk := response.read1(_CHUNK):
        body += chunk
        _check_bytes(len(body), describe(url), access.limits)
    if time.monotonic() >= deadline:  # the watch hung up; what came is a part
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
        if not _is_public(ipaddress.ip_address(address.split("%")[0])):
            raise PolicyViolation(
                f"{host} resolves to {address}, a private address",
                fix="set Policy(private_networks=True) if you trust it",
            )
    return addresses[0]


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Globally routed and unicast, also when an IPv4 address is wrapped in an IPv6 one."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        low = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if address in _NAT64 or address in _NAT64_LOCAL or int(address) >> 32 == 0:
            inner = low
        if inner is not None:
            return _is_public(inner)
        if address.is_site_local or address.teredo is not None:
            return False
    return address.is_global and not address.is_multicast and address not in _PLATFORM


def _connect(
    scheme: str, host: str, port: int, address: str, deadline: float
) -> http.client.HTTPConnection:
    timeout = max(0.1, deadline - time.monotonic())
    sock = socket.create_connection((address, port), timeout=timeout)
    if scheme.lower() == "https":
        try:
            sock = ssl.create_default_context().wrap_socket(sock, server_hostname=host)
        except BaseException:
            sock.close()
            raise
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    connection.sock = sock
    return connection
