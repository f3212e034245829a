"""Training UME-R1: supervised fine-tuning and GRPO, as published and corrected."""
