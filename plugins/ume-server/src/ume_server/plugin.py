"""The commands `ume serve` and `ume run-batch`."""

from __future__ import annotations

from ume_core.hookspecs import CommandSpec, hookimpl


@hookimpl
def ume_commands() -> list[CommandSpec]:
    """`ume serve` and `ume run-batch`."""
    return [
        CommandSpec(
            "serve",
            "serve a model, or an index with a search page, over HTTP",
            "ume_server.commands.serve:arguments",
            "ume_server.commands.serve:run",
        ),
        CommandSpec(
            "run-batch",
            "embed the requests of an OpenAI batch file",
            "ume_server.commands.run_batch:arguments",
            "ume_server.commands.run_batch:run",
        ),
    ]
