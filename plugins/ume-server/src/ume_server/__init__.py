"""UME-R1 over HTTP."""
