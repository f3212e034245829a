"""Engines that return no states of generated tokens: they generate, then prefill exactly once."""
