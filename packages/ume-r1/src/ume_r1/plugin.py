"""The commands of `ume`."""

from __future__ import annotations

from ume_core.hookspecs import CommandSpec, hookimpl

_COMMANDS = {
    "models": (
        "list models",
        "ume_r1.commands.listing:models_arguments",
        "ume_r1.commands.listing:models",
    ),
    "plugins": (
        "list plugins, why one is unavailable, and an engine's options",
        "ume_r1.commands.listing:plugins_arguments",
        "ume_r1.commands.listing:plugins",
    ),
    "embed": (
        "embed files and texts",
        "ume_r1.commands.embed:embed_arguments",
        "ume_r1.commands.embed:embed",
    ),
    "explain": (
        "show what gen mode thinks of a file or text",
        "ume_r1.commands.embed:explain_arguments",
        "ume_r1.commands.embed:explain",
    ),
    "index": (
        "embed a folder into a search index",
        "ume_r1.commands.index:arguments",
        "ume_r1.commands.index:run",
    ),
    "export": (
        "write a model in another form",
        "ume_r1.commands.export:arguments",
        "ume_r1.commands.export:run",
    ),
    "completion": (
        "print the shell's completion of this command",
        "ume_r1.commands.completion:arguments",
        "ume_r1.commands.completion:run",
    ),
    "search": (
        "search an index by words, picture or clip",
        "ume_r1.commands.search:arguments",
        "ume_r1.commands.search:run",
    ),
}


@hookimpl
def ume_commands() -> list[CommandSpec]:
    """The built-in subcommands."""
    return [CommandSpec(name, *rest) for name, rest in _COMMANDS.items()]
