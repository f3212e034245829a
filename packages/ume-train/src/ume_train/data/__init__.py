"""What training reads: the published files as they are, checked and in an order known ahead."""
