"""A discrete-event simulation of the real scheduler and ledger, and baseline policies on the same traces."""
