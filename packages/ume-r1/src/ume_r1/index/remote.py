"""Folders and indexes on object stores, by URI, through fsspec.

What a URI names is fetched because a caller passed it; nothing that stands in an index, a listing
or a file is ever followed. Credentials come from where the store's own tools look for them, and a
URI that holds some is refused, since URIs are stored and printed.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import socket
import threading
import uuid
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from ume_core.errors import EngineUnavailable, InvalidOption, UmeError
from ume_core.limits import Limits
from ume_r1.index.listing import Listing, sort_in
from ume_r1.index.reading import Content, Unreadable, check_size
from ume_r1.index.seen import UNKNOWN, Stamp
from ume_r1.index.shelf import Shelf

# Schemes of object stores and what reads them; of these, S3 is tested. HTTP is none of them: its
# listings are pages, and whose links they hold would be fetched.
_DRIVERS = {
    "s3": "s3fs>=2025.3", "s3a": "s3fs>=2025.3", "gs": "gcsfs", "gcs": "gcsfs",
    "az": "adlfs", "abfs": "adlfs", "abfss": "adlfs",
}  # fmt: skip
_CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or run aws configure",
    "gs": "run gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS",
    "az": "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
_ALIASES = {"s3a": "s3", "gcs": "gs", "abfs": "az", "abfss": "az"}
_AHEAD = 8  # files fetched at a time
_SMALL = 8 * 1024 * 1024  # bytes; larger files are fetched alone
_BLOCK = 8 * 1024 * 1024
_LEASE_SECONDS = 120.0
_LEASE_PARTS = 3  # host, process, number
_WHEN = ("LastModified", "last_modified", "updated", "mtime", "created")
_MARK = ("ETag", "etag", "md5Hash", "content_md5", "crc32c")


def check_uri(uri: str) -> str:
    """A URI of an object store without its trailing slash.

    Raises:
        InvalidOption: it is none, or holds credentials.
    """
    scheme, _, rest = uri.partition("://")
    place = rest.partition("/")[0]
    scheme = scheme.lower()
    if scheme not in _DRIVERS:
        raise InvalidOption(
            f"{scheme[:20]}:// is no place for a folder or an index",
            fix="use s3://, gs:// or az://, or a path",
        )
    if ":" in place or "?" in rest:  # before anything prints it
        raise InvalidOption(
            f"a {scheme}:// URI holds more than a bucket and a path, perhaps credentials",
            fix=f"leave them out; {_credentials_of(scheme)}",
        )
    if not place:
        raise InvalidOption(f"{scheme}:// names no bucket", fix=f"write {scheme}://BUCKET/FOLDER")
    return f"{scheme}://{rest.rstrip('/')}"


def filesystem(uri: str) -> tuple[Any, str]:
    """fsspec's file system for a checked URI, and the path in it; nothing is cached.

    Raises:
        EngineUnavailable: the driver is not installed.
    """
    scheme = uri.partition("://")[0]
    try:
        from fsspec.core import url_to_fs

        found, path = url_to_fs(uri, use_listings_cache=False, skip_instance_cache=True)
    except ImportError as error:
        driver = _DRIVERS[scheme]
        raise EngineUnavailable(
            f"{scheme}:// needs {re.split('[><=]', driver)[0]}, which is not installed",
            fix=f"pip install {shlex.quote(driver)} universal-pathlib",
        ) from error
    return found, str(path).rstrip("/")


@contextmanager
def remote_errors(uri: str) -> Generator[None]:
    """Turn what a driver raises into our error, without what it may say of credentials.

    Args:
        uri: a checked one.

    Raises:
        InvalidOption: with the fix.
    """
    try:
        yield
    except (UmeError, Unreadable):
        raise
    except Exception as error:
        raise InvalidOption(f"{uri}: {reason_of(error)}", fix=_fix(uri, error)) from error


def reason_of(error: Exception) -> str:
    """Why a driver failed, in one sentence, without keys, signatures or addresses with them."""
    kind = type(error).__name__
    if isinstance(error, FileNotFoundError):
        gone = re.search(r"bucket .*not exist|NoSuchBucket", str(error), re.I)
        return "there is no such bucket" if gone else "it is not there"
    if isinstance(error, PermissionError):
        return "access is denied"
    if "Credential" in kind or "Authentication" in kind:
        return "no usable credentials were found"
    text = re.sub(
        r"[?&][\w-]*(?:sign|secret|token|credential)[^\s\"']*", "", str(error), flags=re.I
    )
    text = " ".join(re.sub(r"//[^/@\s]*@", "//…@", text).split())
    return f"the store cannot be read ({text[:150] or kind})"


def _fix(uri: str, error: Exception) -> str:
    scheme = uri.partition("://")[0]
    kind = type(error).__name__
    if isinstance(error, FileNotFoundError):
        return "check the bucket, the path, and the region or endpoint (AWS_ENDPOINT_URL for S3)"
    if isinstance(error, PermissionError) or "Credential" in kind or "Authentication" in kind:
        return _credentials_of(scheme)
    return "check the network and the endpoint (AWS_ENDPOINT_URL for S3), then run it again"


def _credentials_of(scheme: str) -> str:
    return _CREDENTIALS[_ALIASES.get(scheme, scheme)]


def place_at(uri: str) -> Path:
    """A directory on an object store, with the methods of a path.

    Raises:
        InvalidOption: see `check_uri`, or the store cannot be reached.
        EngineUnavailable: see `filesystem`.
    """
    uri = check_uri(uri)
    files, path = filesystem(uri)
    try:
        from upath import UPath
    except ImportError as error:
        raise EngineUnavailable(
            f"an index at {uri} needs universal-pathlib, which is not installed",
            fix="pip install universal-pathlib",
        ) from error
    with remote_errors(uri):  # a bucket that is not there is an index that is not there, otherwise
        files.ls(path.partition("/")[0])
    found = UPath(uri, use_listings_cache=False, skip_instance_cache=True)
    return cast(Path, found)


@contextmanager
def lease(directory: Any, name: str) -> Generator[None]:
    """Keep other processes from writing an index on an object store.

    An object says who writes, and is renewed; that of a killed process is given up after two
    minutes by the store's own clock.

    Args:
        directory: as `place_at` gives it.
        name: of the object.

    Raises:
        InvalidOption: another process is writing, or the store refuses something.
    """
    files, path = directory.fs, f"{directory.path.rstrip('/')}/{name}"
    mine = f"{socket.gethostname()} {os.getpid()} {uuid.uuid4().hex}".encode()
    with remote_errors(str(directory)):
        try:
            files.pipe_file(path, mine, mode="create")
        except FileExistsError:
            _take_over(directory, files, path, mine)
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(_LEASE_SECONDS / 4):
            with suppress(Exception):  # the next time, or the lease is lost
                if files.cat_file(path) == mine:
                    files.pipe_file(path, mine)

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with suppress(Exception):  # it ends by itself
            if files.cat_file(path) == mine:
                files.rm_file(path)


def _take_over(directory: Any, files: Any, path: str, mine: bytes) -> None:
    probe = f"{path}-{uuid.uuid4().hex}"
    files.pipe_file(probe, b"now")
    now = files.modified(probe)
    files.rm_file(probe)
    age = (now - files.modified(path)).total_seconds()
    holder = files.cat_file(path).decode(errors="replace").split()
    # A disk's lock file that was copied here is empty.
    if age < _LEASE_SECONDS and len(holder) == _LEASE_PARTS:
        raise InvalidOption(
            f"another process is writing {directory} (process {holder[1]} on {holder[0]})",
            fix=f"wait for it to finish; one that was killed is given up in "
            f"{_LEASE_SECONDS - age:.0f} s",
        )
    files.rm_file(path)
    files.pipe_file(path, mine, mode="create")


class RemoteFolder:
    """A folder on an object store. One directory's names are held in memory at a time."""

    near = False

    def __init__(self, uri: str) -> None:
        """Name it; nothing is fetched yet.

        Raises:
            InvalidOption: see `check_uri`.
            EngineUnavailable: see `filesystem`.
        """
        self.name = check_uri(uri)
        self._files, self._root = filesystem(self.name)
        self._stamps: Shelf[tuple[int, int, int]] = Shelf("size", "mtime_ns", "ctime_ns")

    def check(self) -> None:
        """Find out whether it can be listed.

        Raises:
            InvalidOption: it cannot; with the fix.
        """
        with remote_errors(self.name):
            self._entries("")

    def list(self, leave_out: str = "") -> Listing:
        """See `Folder.list`."""
        found = Listing()
        waiting = [""]
        while waiting:
            directory = waiting.pop()
            if leave_out and f"{self.name}/{directory}".rstrip("/") == leave_out:
                continue
            try:
                if directory:
                    entries = self._entries(directory)
                else:
                    with remote_errors(self.name):
                        entries = self._entries(directory)
            except InvalidOption:
                raise
            except Exception as error:
                found.unlisted[directory] = f"it cannot be read: {reason_of(error)}"
                continue
            found.folders.add(directory)
            if not entries:
                found.empty.add(directory)
            for name, entry in entries:
                if entry["type"] == "directory":
                    waiting.append(name)
                elif sort_in(name, found):
                    stamp = _stamp(entry)
                    self._stamps[name] = (stamp.size, stamp.mtime_ns, stamp.ctime_ns)
        return found

    def _entries(self, directory: str) -> list[tuple[str, dict[str, Any]]]:
        """The visible entries of a directory, by their names in the folder.

        Raises:
            Exception: whatever the driver raises.
        """
        place = f"{self._root}/{directory}".rstrip("/")
        found: list[tuple[str, dict[str, Any]]] = []
        for entry in self._files.ls(place, detail=True):
            path = str(entry["name"]).rstrip("/")
            last = path.removeprefix(place).removeprefix("/")
            # Stores have objects that stand for a directory, and names that no disk would take.
            if path != place and last and "/" not in last and not last.startswith("."):
                found.append((f"{directory}/{last}" if directory else last, entry))
        return found

    def stamp(self, name: str) -> Stamp:
        """See `Folder.stamp`; as the store listed it."""
        found = self._stamps.get(name)
        if found is None:  # not listed yet
            with self._reading():
                stamp = _stamp(self._files.info(self._path(name)))
        else:
            stamp = Stamp(*found)
        check_size(stamp.size)
        return stamp

    def digest(self, name: str) -> tuple[str, Stamp]:
        """See `Folder.digest`."""
        stamp = self.stamp(name)
        digest = hashlib.sha256()
        with self._reading(), self._files.open(self._path(name), "rb", block_size=_BLOCK) as file:
            while block := file.read(_BLOCK):
                digest.update(block)
        return digest.hexdigest(), stamp

    def contents(self, names: Iterable[str]) -> Iterator[tuple[str, Content | Unreadable]]:
        """See `Folder.contents`; small files are fetched some at a time, ahead."""
        running: deque[tuple[str, Future[Content | Unreadable]]] = deque()
        pool = ThreadPoolExecutor(_AHEAD)
        try:
            for name in names:
                running.append((name, pool.submit(self._read, name)))
                size = self._stamps[name][0] if name in self._stamps else 0
                while running and (len(running) >= _AHEAD or size > _SMALL):
                    name, future = running.popleft()
                    yield name, future.result()
            while running:
                name, future = running.popleft()
                yield name, future.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _read(self, name: str) -> Content | Unreadable:
        try:
            stamp = self.stamp(name)
            with self._reading():  # an object that was replaced since may be larger
                data = self._files.cat_file(self._path(name), start=0, end=Limits().file_bytes + 1)
            check_size(len(data))
        except Unreadable as error:
            return error
        return Content(data, hashlib.sha256(data).hexdigest(), stamp)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextmanager
    def _reading(self) -> Generator[None]:
        try:
            yield
        except Exception as error:
            raise Unreadable(f"cannot be read: {reason_of(error)}") from error


def _stamp(entry: dict[str, Any]) -> Stamp:
    """What a store's listing says of an object; `UNKNOWN` times where it says too little."""
    size = int(entry.get("size") or 0)
    when = next((entry[key] for key in _WHEN if entry.get(key)), None)
    mark = next((str(entry[key]) for key in _MARK if entry.get(key)), None)
    if isinstance(when, str):
        try:
            when = datetime.fromisoformat(when.replace("Z", "+00:00"))
        except ValueError:
            when = None
    seconds = when.timestamp() if isinstance(when, datetime) else when
    if mark is None or not isinstance(seconds, (int, float)):
        return Stamp(size, UNKNOWN, UNKNOWN)
    # A mark of the content stands where disks have the time of the last change; negative, so that
    # it is never taken for one.
    digest = hashlib.blake2b(mark.encode(), digest_size=7).digest()
    return Stamp(size, int(seconds * 1e9), -1 - int.from_bytes(digest, "big"))
