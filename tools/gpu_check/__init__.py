"""`tools/gpu-check`: what a borrowed GPU must show, in stages that a bare machine can run."""
