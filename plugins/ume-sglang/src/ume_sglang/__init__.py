"""UME-R1 on SGLang."""
