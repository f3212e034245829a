"""UME-R1's disc embeddings on native TensorRT engines: `ume_core.load(DIR, engine="tensorrt")`."""
