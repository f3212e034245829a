"""Export of the disc encoder to ONNX; runs in its own environment (see design notes in README)."""
