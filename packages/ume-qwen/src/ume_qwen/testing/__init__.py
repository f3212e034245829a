"""For engines' tests: seeded random checkpoints in the published layout, and media. Needs torch."""
