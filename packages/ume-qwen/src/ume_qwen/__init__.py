"""What every engine for Qwen2-VL and Qwen2.5-VL checkpoints shares, without torch.

Checkpoint files, tokens, pixels, positions, rendering, packing, and the base embedder that turns
items into prompts ahead of the model and answers in input order.
"""
