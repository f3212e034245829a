"""From items to the inputs of Qwen2-VL and Qwen2.5-VL, without torch: every engine starts here."""
