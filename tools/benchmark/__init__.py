"""`tools/bench`: the engines and what they are compared with, in one process, interleaved."""
