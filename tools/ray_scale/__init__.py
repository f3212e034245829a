"""What an item costs on a Ray cluster, as the number of items grows."""
