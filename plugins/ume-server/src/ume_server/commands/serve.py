"""`ume serve`."""

from __future__ import annotations

import argparse
import gc
import logging
import socket
import sys
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

from ume_core.embedder import Embedder
from ume_core.errors import InvalidOption
from ume_core.session import open_session
from ume_core.signature import MODES
from ume_r1.commands.common import model_arguments, named_engine, named_model, options_from
from ume_r1.loading import load
from ume_r1.settings import DEFAULT_MODEL
from ume_server.app import create_app
from ume_server.search.routes import SearchPage
from ume_server.server import bind, serve
from ume_server.service import warm
from ume_server.settings import SERVER_LIMITS, SERVER_POLICY, Settings
from ume_server.wire.ask import Served

# Requests are read while a thread computes: they wait for the interpreter no longer than this.
_SWITCH_SECONDS = 0.001
_LEAST_KEY = 16  # characters: what can be guessed is no key


def arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `ume serve`."""
    parser.add_argument(
        "served", nargs="?", metavar="MODEL", help=f"as --model (default: {DEFAULT_MODEL})"
    )
    parser.add_argument("--index", type=Path, help="serve a search page over this index too")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    parser.add_argument(
        "--api-key-file", type=Path, help="a file with API keys, one a line; without, all may ask"
    )
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME",
        help="a name this server is called by, beside localhost and addresses; '*' takes any",
    )  # fmt: skip
    parser.add_argument(
        "--allow-url-host", action="append", default=[], metavar="NAME",
        help="a host that media URLs may name (default: none are fetched)",
    )  # fmt: skip
    parser.add_argument("--served-name", help="the model's name for clients (default: its own)")
    parser.add_argument("--max-waiting", type=int, help="items that may wait or run")
    parser.add_argument("--drain-seconds", type=float, default=30.0, help="on SIGTERM")
    model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until told to stop."""
    if args.served and args.model:
        raise InvalidOption("two models are named", fix="name one")
    keys = read_keys(args.api_key_file) if args.api_key_file else ()
    settings = _settings(args, keys)
    try:
        sock = bind(args.host, args.port)
    except OSError as error:
        raise InvalidOption(
            f"cannot listen on {args.host}:{args.port}: {error.strerror or error}",
            fix="choose another --host or --port",
        ) from error
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    with sock:
        model, page = _load(args, settings)
        name = args.served_name or model.signature("disc").model
        served = Served(name, tuple(m for m in MODES if m in model.modes), model.dimensions)
        session = open_session(model)
        warm(session, served)
        app, service = create_app(
            session,
            served,
            model.signature("disc"),
            settings,
            add=page.add if page is not None else None,
        )
        gc.collect()
        gc.freeze()  # no collection walks what stays anyway: libraries and the model
        sys.setswitchinterval(_SWITCH_SECONDS)
        sock.listen()  # from its announcement on an address refuses nobody
        with suppress(OSError):  # a full disk behind standard output stops no server
            _announce(sock, settings, served, page=page is not None)
        serve(app, service, session, sock)
    return 0


def _load(args: argparse.Namespace, settings: Settings) -> tuple[Embedder, SearchPage | None]:
    """The model, and the page if an index is served: then the model is the index's."""
    hosts = settings.url_hosts
    policy = replace(SERVER_POLICY, urls=bool(hosts), hosts=hosts or None)
    options = options_from(args) | {"policy": policy, "limits": settings.limits}
    if args.index is None:
        model = args.served or named_model(args)
        return load(model, engine=named_engine(args), **options), None
    page = SearchPage.open(args.index)
    return page.load_model(args.served or args.model, args.engine or "auto", options), page


def read_keys(path: Path) -> tuple[str, ...]:
    """The keys of a file, one a line; lines that begin with # are notes.

    Raises:
        InvalidOption: it cannot be read, holds none, or one that can be guessed.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidOption(f"cannot read the keys in {path}: {error}", fix="check it") from error
    keys = tuple(k.strip() for k in lines if k.strip() and not k.startswith("#"))
    make = "python -c 'import secrets; print(secrets.token_urlsafe())' > keys.txt"
    if not keys:
        raise InvalidOption(f"{path} holds no key", fix=make)
    if any(len(k) < _LEAST_KEY or not k.isascii() for k in keys):
        raise InvalidOption(f"{path} holds a key that is short or not ASCII", fix=make)
    return keys


def _settings(args: argparse.Namespace, keys: tuple[str, ...]) -> Settings:
    if not 0 <= args.port < 65536:
        raise InvalidOption(f"--port is {args.port}", fix="pass a number below 65536")
    hosts = {"localhost", socket.gethostname().lower(), *args.allow_host}
    settings = Settings(
        keys=keys,
        hosts=() if "*" in hosts else tuple(sorted(hosts)),
        url_hosts=tuple(args.allow_url_host),
        drain_seconds=args.drain_seconds,
        limits=SERVER_LIMITS,
    )
    if args.max_waiting is not None:
        if args.max_waiting < 1:
            raise InvalidOption(f"--max-waiting is {args.max_waiting}", fix="pass at least 1")
        settings = replace(settings, waiting_items=args.max_waiting)
    return settings


def _announce(sock: socket.socket, settings: Settings, served: Served, *, page: bool) -> None:
    host, port = sock.getsockname()[:2]
    address = f"[{host}]" if ":" in host else host
    print(f"serving {', '.join(served.names)} on http://{address}:{port}/v1")
    if page:
        print(f"search page: http://{address}:{port}/")
    if not settings.keys and not ip_address(host).is_loopback:
        print(
            "ume: everybody who reaches this address may ask. Fix: pass --api-key-file",
            file=sys.stderr,
        )
    sys.stdout.flush()
