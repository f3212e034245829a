"""Group relative policy optimisation of the thinking, rewarded by what its vector retrieves."""
