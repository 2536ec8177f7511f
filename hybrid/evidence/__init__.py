"""Evidence: measurements, statistics, gates and the ledger. Knows nothing of skills or weights."""
