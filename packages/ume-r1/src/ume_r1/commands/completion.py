"""`ume completion`."""

from __future__ import annotations

import argparse

from ume_r1.arguments import Parser


def arguments(parser: Parser) -> None:
    """Which shell."""
    parser.examples(
        'eval "$(ume completion bash)"      # in ~/.bashrc',
        'eval "$(ume completion zsh)"       # in ~/.zshrc, below compinit',
        "ume completion fish | source       # in ~/.config/fish/config.fish",
    )
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))


def run(args: argparse.Namespace) -> int:
    """Print code for the shell to evaluate."""
    from argcomplete.shell_integration import shellcode

    print(shellcode(["ume"], shell=args.shell))
    return 0
