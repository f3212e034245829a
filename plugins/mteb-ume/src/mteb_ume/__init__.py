"""UME-R1, disc and gen, in mteb."""

from mteb_ume.encoder import UmeEncoder, ume_r1_2b, ume_r1_2b_disc, ume_r1_7b, ume_r1_7b_disc
from mteb_ume.meta import model_meta

__all__ = [
    "UmeEncoder",
    "model_meta",
    "ume_r1_2b",
    "ume_r1_2b_disc",
    "ume_r1_7b",
    "ume_r1_7b_disc",
]
