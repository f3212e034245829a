"""Set-up, quickstart, test, benchmark and nano builder; no library code."""
