"""`python -m tools.fuzz`: hostile pictures, clips, texts and messages; nothing but our errors."""
