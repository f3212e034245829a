"""UME-R1, disc and gen, in mteb."""

from mteb_ume.encoder import UmeEncoder, model_meta

__all__ = ["UmeEncoder", "model_meta"]
