"""Media over HTTP(S): urllib3's protocol, on connections that go to addresses checked first.

A URL is somebody else's text, so a name is looked up once, every address it has must be public
(unless `Policy.private_networks`), and the connection goes to one of these very addresses: a name
that resolves differently the next time (DNS rebinding) gains nothing. Each redirect starts over.
Proxies of the environment are not used: a proxy looks names up itself, which would undo that.
"""

from __future__ import annotations

import base64
import queue
import re
import socket
import ssl
import threading
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from http.client import HTTPException, responses
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeAlias
from urllib.parse import unquote, urljoin
from urllib.request import getproxies

import idna
from urllib3 import __version__ as urllib3_version  # pyright: ignore[reportPrivateImportUsage]
from urllib3.connection import HTTPConnection
from urllib3.exceptions import DecodeError, HTTPError, IncompleteRead, LocationParseError
from urllib3.response import HTTPResponse
from urllib3.util import Url, parse_url

from ume_core.addresses import is_public
from ume_core.errors import EngineUnavailable, MediaError, PolicyViolation, UmeError
from ume_core.fetch import Access, check_bytes, describe

# Before 2.6.3, compressed bodies were expanded whole whatever size was asked for (CVE-2025-66471,
# CVE-2026-21441), which the bound on bytes relies on.
_URLLIB3 = (2, 6, 3)
_MAX_REDIRECTS = 5
_CHUNK = 1 << 20
# An address that does not answer holds the others up no longer; TCP asks again after 1 and 3 s.
_ATTEMPT_SECONDS = 4.0
_PORTS = {"http": 80, "https": 443}
# Codings in use that urllib3 has only with another package, and that package.
_CODINGS = {"br": "brotli>=1.2", "zstd": "backports.zstd", "compress": None, "x-compress": None}
_AUTHORITY = re.compile(r"^(https?://(?:[^\\/?#]*@)?)([^\\/?#]*)", re.IGNORECASE)
_DOWNLOAD = "download it first and pass the file"
_Address: TypeAlias = "tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[Any, ...]]"


def user_agent() -> str:
    """Client/version (contact) library/version.

    As https://foundation.wikimedia.org/wiki/Policy:Wikimedia_Foundation_User-Agent_Policy asks.
    """
    try:
        ours = version("ume-core")
    except PackageNotFoundError:  # run from a source tree
        ours = "0"
    contact = "https://huggingface.co/zhibinlan/UME-R1-2B"
    return f"ume-core/{ours} ({contact}) urllib3/{urllib3_version}"


def download(url: str, access: Access) -> bytes:
    """The body behind an `http(s)://` URL, decoded, within `Limits.file_bytes` and `url_seconds`.

    Raises:
        PolicyViolation: an address that is not public, or a redirect to another scheme.
        LimitExceeded: more bytes than `Limits.file_bytes`, before or after decoding.
        MediaError: no such host, no answer or another one, too slow.
        EngineUnavailable: urllib3 is too old.
    """
    if tuple(map(int, re.findall(r"\d+", urllib3_version)[:3])) < _URLLIB3:
        raise EngineUnavailable(
            f"urllib3 {urllib3_version} does not bound what it decompresses",
            fix="pip install 'urllib3>={}.{}.{}'".format(*_URLLIB3),
        )
    parsed = parse(url)
    deadline = time.monotonic() + access.limits.url_seconds
    return _Download(access, deadline, url, parsed, _credentials(parsed)).run()


def parse(url: str) -> Url:
    """A URL as browsers read it: trimmed, quoted, its host's name in ASCII.

    Raises:
        MediaError: it is not valid.
    """
    shown = describe(url)
    url = re.sub(r"[\t\r\n]", "", url.strip("".join(map(chr, range(0x21)))))
    found = _AUTHORITY.match(url)
    try:
        if found is not None and not found[2].isascii():
            url = found[1] + idna.uts46_remap(found[2], std3_rules=False) + url[found.end() :]
        parsed = parse_url(url)
    except (LocationParseError, idna.IDNAError, UnicodeError):
        # No cause: it would show a password that stands in the URL.
        raise MediaError(f"{shown} is not a valid URL", fix="check its host and port") from None
    if not parsed.host:
        raise MediaError(f"{shown} has no host", fix="write http://host/path")
    return parsed


@dataclass
class _Download:
    """One download, from the first request to the last redirect.

    Attributes:
        given: the URL asked for.
        url: the one to ask now.
        credentials: its Authorization header.
    """

    access: Access
    deadline: float
    given: str
    url: Url
    credentials: str | None
    redirected: bool = False

    @property
    def name(self) -> str:
        """For messages."""
        given = describe(self.given)
        return f"{given}, redirected to {describe(self.url.url)}," if self.redirected else given

    @property
    def left(self) -> float:
        """Seconds; a socket's timeout must be above zero."""
        return max(0.05, self.deadline - time.monotonic())

    @property
    def is_late(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() >= self.deadline

    def run(self) -> bytes:
        """The body."""
        for _ in range(_MAX_REDIRECTS + 1):
            try:
                answer = self._get()
            except UmeError:  # PolicyViolation is an OSError too
                raise
            except (OSError, HTTPException, HTTPError, ValueError) as error:
                raise (self._too_late() if self.is_late else self._failure(error)) from error
            if isinstance(answer, bytes):
                return answer
            self._follow(answer)
        given = describe(self.given)
        raise MediaError(f"{given}: more than {_MAX_REDIRECTS} redirects", fix=_DOWNLOAD)

    def _follow(self, location: str) -> None:
        with suppress(UnicodeError):  # header bytes come as Latin-1; those beyond ASCII are UTF-8
            location = location.encode("latin-1").decode("utf-8")
        if not location:
            raise MediaError(f"{self.name} redirects to nowhere", fix=_DOWNLOAD)
        try:
            url = urljoin(self.url.url, location)
        except ValueError:
            raise MediaError(f"{self.name} redirects to no valid URL", fix=_DOWNLOAD) from None
        if not url.lower().startswith(("http://", "https://")):
            raise PolicyViolation(f"{self.name}: redirect to another scheme", fix=_DOWNLOAD)
        old, self.url, self.redirected = self.url, parse(url), True
        if self.url.auth is not None or not _same_host(old, self.url):
            self.credentials = _credentials(self.url)

    def _get(self) -> bytes | str:
        """One request: the body, or the redirect's target."""
        host = (self.url.host or "").strip("[]")
        self._check_host(host)
        with closing(self._connect(host)) as plain:
            sock = self._encrypted(plain, host) if self.url.scheme == "https" else plain
            # A server that drips bytes keeps every single read short of its own timeout.
            watch = threading.Timer(self.left, _hang_up, [sock])
            watch.daemon = True
            watch.start()
            connection = HTTPConnection(host, timeout=self.left)
            connection.sock = sock
            try:
                connection.request(
                    "GET", self.url.request_uri, headers=self._headers(), preload_content=False
                )
                with closing(connection.getresponse()) as response:
                    return self._answer(response)
            finally:
                watch.cancel()
                connection.close()

    def _check_host(self, host: str) -> None:
        """Refuse a host that the policy does not name, before its name is looked up."""
        hosts = self.access.policy.hosts
        if hosts is not None and host.rstrip(".").lower() not in {h.lower() for h in hosts}:
            raise PolicyViolation(
                f"{host} is not among the hosts that URLs may name",
                fix="send the file's bytes instead, or add it to Policy.hosts",
            )

    def _headers(self) -> dict[str, str]:
        port = _port(self.url)
        host = re.sub(r"%[^]]*", "", self.url.host or "")  # no zone
        headers = {
            "Host": host if port == _PORTS[self.url.scheme or "http"] else f"{host}:{port}",
            "User-Agent": user_agent(),
            "Accept": "*/*",
            # Media is compressed as it is. What comes compressed all the same is decoded.
            "Accept-Encoding": "identity",
        }
        if self.credentials is not None:
            headers["Authorization"] = self.credentials
        return headers

    def _connect(self, host: str) -> socket.socket:
        """A connection to one of the host's addresses, all of which the policy allows."""
        addresses = _look_up(host, _port(self.url), self.left)
        allowed = self.access.policy.private_networks
        if not allowed and not all(is_public(str(where[0])) for *_, where in addresses):
            raise PolicyViolation(
                f"{host} has a private or special address",
                fix="set Policy(private_networks=True) if you trust it",
            )
        failure = OSError(f"{host} has no address")
        for number, (family, kind, protocol, _, where) in enumerate(addresses):
            rest = len(addresses) - number
            sock = socket.socket(family, kind, protocol)
            try:
                sock.settimeout(self.left if rest == 1 else min(_ATTEMPT_SECONDS, self.left / rest))
                sock.connect(where)
            except OSError as error:
                sock.close()
                failure = error
            except BaseException:
                sock.close()
                raise
            else:
                return sock
        raise failure

    def _encrypted(self, sock: socket.socket, host: str) -> ssl.SSLSocket:
        context = ssl.create_default_context()
        context.set_alpn_protocols(["http/1.1"])
        sock.settimeout(self.left)  # of the whole handshake
        name = host.partition("%")[0].rstrip(".")
        return context.wrap_socket(sock, server_hostname=name)

    def _answer(self, response: HTTPResponse) -> bytes | str:
        if response.status in (301, 302, 303, 307, 308):
            return response.headers.get("Location", "")
        if response.status not in (200, 203):  # 203: a proxy on the way changed the headers
            raise _refusal(response.status, self.name)
        limits = self.access.limits
        if response.length_remaining is not None:
            check_bytes(response.length_remaining, self.name, limits)
        _check_coding(response.headers.get("Content-Encoding", ""), self.name)
        body = bytearray()
        # urllib3 decodes no more than what is asked for at a time, and checks declared lengths.
        while not self.is_late and (chunk := response.read(_CHUNK, decode_content=True)):
            body += chunk
            check_bytes(len(body), self.name, limits)
        if self.is_late:  # the watch hung up; what came is a part
            raise self._too_late()
        if not body:
            raise MediaError(f"{self.name} is empty (0 bytes)", fix="check the URL")
        return bytes(body)

    def _too_late(self) -> MediaError:
        seconds = self.access.limits.url_seconds
        return MediaError(
            f"{self.name} took longer than limits.url_seconds ({seconds:g} s)",
            fix=f"raise the limit, or {_DOWNLOAD}",
        )

    def _failure(self, error: Exception) -> MediaError:
        """What to say of an error of a socket, of TLS, or of a server that breaks the protocol."""
        cut = next((a for a in error.args if isinstance(a, IncompleteRead)), None)
        if cut is not None:
            got, wanted = cut.partial, cut.partial + cut.expected
            cause, fix = f"{self.name} ended after {got:,} of {wanted:,} bytes", "try again"
        elif isinstance(error, DecodeError):
            cause, fix = f"{self.name} does not decode: {error.args[0]}", _DOWNLOAD
        elif isinstance(error, ssl.SSLCertVerificationError):
            cause = f"cannot fetch {self.name}: its certificate: {error.verify_message}"
            fix = f"name its issuer's certificate in SSL_CERT_FILE if you trust it, or {_DOWNLOAD}"
        else:
            cause = f"cannot fetch {self.name}: {getattr(error, 'strerror', None) or error}"
            fix = "check the URL and the network"
            if getproxies().keys() & {"http", "https", "all"}:
                fix += f"; the environment's proxies are not used: behind one, {_DOWNLOAD}"
        return MediaError(cause, fix=fix)


def _port(url: Url) -> int:
    return url.port if url.port is not None else _PORTS[url.scheme or "http"]


def _same_host(old: Url, new: Url) -> bool:
    """Whether credentials for one may go to the other: one origin, or its step up to HTTPS."""
    origins = (old.scheme, _port(old)), (new.scheme, _port(new))
    stepped_up = origins == (("http", 80), ("https", 443))
    return old.host == new.host and (origins[0] == origins[1] or stepped_up)


def _credentials(url: Url) -> str | None:
    """The Authorization header (Basic, RFC 7617) of `user:password@`, if the URL has them."""
    if url.auth is None:
        return None
    user, _, password = url.auth.partition(":")
    pair = f"{unquote(user)}:{unquote(password)}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


def _hang_up(sock: socket.socket) -> None:
    with suppress(OSError):
        # Below TLS, whose own method would let the reader go on in plain text.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _look_up(host: str, port: int, seconds: float) -> list[_Address]:
    """`getaddrinfo` in a thread, because the system's resolver knows no deadline of ours."""
    answers: queue.SimpleQueue[list[_Address] | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
        except Exception as error:  # raised in the thread that waits
            answers.put(error)

    threading.Thread(target=ask, name="ume-resolve", daemon=True).start()
    try:
        answer = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"looking up {host} took too long") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _refusal(status: int, name: str) -> MediaError:
    if status == 206:
        return MediaError(f"{name} answered with a part (206), unasked", fix=_DOWNLOAD)
    fixes = {
        401: f"write user:password@ before the host, or {_DOWNLOAD}",
        403: f"the server wants a login, or no programs: {_DOWNLOAD}",
        404: "check the URL",
        410: "check the URL",
    }
    cause = f"{name} answered {status} {responses.get(status, '')}".rstrip()
    return MediaError(cause, fix=fixes.get(status, f"try again later, or {_DOWNLOAD}"))


def _check_coding(header: str, name: str) -> None:
    """Refuse codings that would pass undecoded, or decoded without a bound.

    What is no coding at all ("utf-8", "aws-chunked") is passed over, as browsers do.
    """
    for coding in (c.strip().lower() for c in header.split(",")):
        unknown = coding in _CODINGS and coding not in HTTPResponse.CONTENT_DECODERS
        if unknown or (coding == "br" and not brotli_is_bounded()):
            package = _CODINGS[coding]
            fix = f"pip install '{package}', or {_DOWNLOAD}" if package else _DOWNLOAD
            raise MediaError(f"{name} came in the content encoding {coding!r}", fix=fix)


def brotli_is_bounded() -> bool:
    """Whether the brotli that urllib3 takes (brotlicffi, else brotli) has a bound (1.2 has)."""
    for module in ("brotlicffi", "brotli"):
        with suppress(ImportError):
            decompressor = import_module(module).Decompressor()
            decode = getattr(decompressor, "decompress", None) or decompressor.process
            try:
                decode(b"", output_buffer_limit=1)
            except TypeError:
                return False
            return True
    return False
