"""The subcommands of `ume train`."""
