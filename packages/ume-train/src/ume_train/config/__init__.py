"""What a run is told: sections, presets, and what the published flags became."""

from ume_train.config.load import PRESETS, read_config
from ume_train.config.stages import GRPOConfig, SFTConfig, StageConfig

__all__ = ["PRESETS", "GRPOConfig", "SFTConfig", "StageConfig", "read_config"]
