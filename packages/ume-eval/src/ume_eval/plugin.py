"""The command `ume eval`."""

from __future__ import annotations

from ume_core.hookspecs import CommandSpec, hookimpl


@hookimpl
def ume_commands() -> list[CommandSpec]:
    """`ume eval`."""
    return [
        CommandSpec(
            "eval",
            "evaluate on MMEB-V2, measure what thinking is worth, write reports",
            "ume_eval.commands.main:arguments",
            "ume_eval.commands.main:run",
        )
    ]
