"""UME-R1 on vLLM."""
