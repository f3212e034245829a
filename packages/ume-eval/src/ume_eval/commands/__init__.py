"""The subcommands of `ume eval`."""
