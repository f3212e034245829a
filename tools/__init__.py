"""Set-up, quickstart, test, benchmark, fuzzing and nano builder; no library code."""
