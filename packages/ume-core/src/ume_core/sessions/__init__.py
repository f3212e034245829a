"""What sessions of all engines share; the contract is `ume_core.session`."""
