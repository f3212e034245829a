"""The cluster: reaching it, what it has, and what it says when something fails."""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import ray

from ume_core.errors import EngineUnavailable, InvalidOption, UmeError

_SECONDS = 10.0  # to reach an address; Ray itself tries for a quarter of an hour (2.60)
_RESERVED = 1.0  # CPU left for what reads the data
_CPUS = 4.0  # of a worker on a machine without GPUs


@dataclass(frozen=True)
class Workers:
    """The pool of workers, each with a model of its own.

    Attributes:
        count: workers; None takes one for each GPU, or on a cluster without GPUs as many as its
            CPUs allow.
        cpus: CPUs of each; None takes 1 beside a GPU, else 4 or what there is, with one left for
            reading.
        gpus: GPUs of each; None takes 1 if the cluster has GPUs. Fractions share one.
    """

    count: int | None = None
    cpus: float | None = None
    gpus: float | None = None

    def __post_init__(self) -> None:
        if self.count is not None and self.count < 1:
            raise InvalidOption(f"{self.count} workers", fix="ask for at least 1")
        for name in ("cpus", "gpus"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise InvalidOption(f"{value} {name} of a worker", fix="pass a number from 0 on")


@dataclass(frozen=True)
class Pool:
    """A pool that fits the cluster.

    Attributes:
        least: workers at the start.
        most: workers, as soon as the cluster has room for them.
        cpus: of each.
        gpus: of each.
    """

    least: int
    most: int
    cpus: float
    gpus: float


def fit(workers: Workers) -> Pool:
    """The pool for the cluster as it is now.

    Raises:
        InvalidOption: not even one worker fits.
    """
    have = ray.cluster_resources()
    all_cpus, all_gpus = have.get("CPU", 0.0), have.get("GPU", 0.0)
    gpus = min(1.0, all_gpus) if workers.gpus is None else workers.gpus
    free = max(0.0, all_cpus - _RESERVED)  # on a single CPU, workers share what is left for reading
    cpus = workers.cpus
    if cpus is None:
        cpus = min(1.0 if gpus else _CPUS, free)
    room = [int(free / cpus)] if cpus else []
    room += [int(all_gpus / gpus)] if gpus else []
    fits = min(room, default=1)
    if fits < 1:
        raise InvalidOption(
            f"no worker of {cpus:g} CPUs and {gpus:g} GPUs fits a cluster of {all_cpus:g} CPUs and "
            f"{all_gpus:g} GPUs, with {_RESERVED:g} CPU left for reading",
            fix="ask for less of each (--worker-cpus, --worker-gpus), or for a larger cluster",
        )
    most = workers.count or fits
    return Pool(min(most, fits), most, cpus, gpus)


@contextmanager
def connected(address: str | None) -> Generator[None]:
    """A connection to a cluster; one that the program has already is used and kept.

    Args:
        address: `host:port`, `auto` or `local`; None or empty takes a running cluster
            ($RAY_ADDRESS, or this machine's), else this machine for the time being.

    Raises:
        EngineUnavailable: there is none, or it cannot be used.
    """
    if ray.is_initialized():
        yield
        return
    _check(address or os.environ.get("RAY_ADDRESS", ""))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would tell its makers about the run
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # the rest is for its makers
    try:
        ray.init(
            address or None,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except Exception as error:  # Ray raises that itself, where a node does not start
        raise EngineUnavailable(
            f"the Ray cluster {address or ''} cannot be used: {_first(error)}",
            fix="start one with `ray start --head` (the same Python and Ray on every node), or "
            "leave the address out to use this machine",
        ) from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def _check(address: str) -> None:
    """Find out in seconds what takes Ray many minutes.

    Raises:
        EngineUnavailable: nothing answers there. InvalidOption: it is no address.
    """
    if address in ("", "auto", "local"):
        return
    if address.startswith("ray://"):
        raise InvalidOption(
            f"{address} is a Ray Client address, and Ray Data needs the cluster itself",
            fix="run the command on a node of the cluster with --ray auto, or as `ray job submit`",
        )
    parts = re.fullmatch(r"\[?([\w.:-]+?)\]?:(\d{1,5})", address)
    if parts is None:
        raise InvalidOption(
            f"{address!r} is no address of a Ray cluster",
            fix="write --ray HOST:PORT (the port is 6379 unless it was chosen), auto or local; "
            "without an address, write it after the folder",
        )
    try:
        socket.create_connection((parts[1], int(parts[2])), _SECONDS).close()
    except (OSError, OverflowError) as error:
        raise EngineUnavailable(
            f"no Ray cluster answers at {address}: {getattr(error, 'strerror', '') or error}",
            fix="check the address (`ray status` on its head node), or leave it out to use this "
            "machine",
        ) from error


@contextmanager
def cluster_errors() -> Generator[None]:
    """Turn what Ray raises into our errors.

    Raises:
        EngineUnavailable: with the fix.
    """
    try:
        yield
    except UmeError:
        raise
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "ray":
            raise
        cause = _root(error)
        missing = isinstance(cause, ImportError)
        raise EngineUnavailable(
            f"the Ray cluster failed: {_first(cause)}",
            fix="install the same packages on every node: from a clone, `pip install packages/* "
            "plugins/ume-ray`"
            if missing
            else "see Ray's logs (/tmp/ray/session_latest/logs on each node); the same command "
            "goes on from there",
        ) from error


def _root(error: BaseException) -> BaseException:
    """The first exception of a chain, which the worker raised."""
    inner = getattr(error, "cause", None) or error.__cause__
    return _root(inner) if isinstance(inner, BaseException) and inner is not error else error


def _first(error: BaseException) -> str:
    """What an error says, in one line, without the traceback that Ray puts into it."""
    text = re.sub(r"\x1b\[\d+m", "", str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"{type(error).__name__}: {(lines or [''])[0]}"[:300]
