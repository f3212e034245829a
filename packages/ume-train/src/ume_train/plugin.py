"""The command `ume train`."""

from __future__ import annotations

from ume_core.hookspecs import CommandSpec, hookimpl


@hookimpl
def ume_commands() -> list[CommandSpec]:
    """`ume train`."""
    return [
        CommandSpec(
            "train",
            "fine-tune: the published SFT and GRPO, exactly and corrected",
            "ume_train.commands.main:arguments",
            "ume_train.commands.main:run",
        )
    ]
