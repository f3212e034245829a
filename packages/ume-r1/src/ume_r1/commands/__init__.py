"""Subcommands of `ume`."""
