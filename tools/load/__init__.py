"""Load and faults on the server, every answer compared with its offline vector."""
