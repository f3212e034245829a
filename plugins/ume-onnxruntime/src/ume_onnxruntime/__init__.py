"""UME-R1's disc embeddings on ONNX Runtime: `ume_core.load(DIR, engine="onnxruntime")`."""
