"""The real scheduler and ledger with a fake clock and fake lanes, beside the policies of peers, on the same traces."""
