"""For tests of this engine: kernels written out as they are documented."""
