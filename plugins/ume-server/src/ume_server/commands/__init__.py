"""Commands of `ume`."""
