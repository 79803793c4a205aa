"""Bytes of one device: the ledger, learned activation peaks, memory requirements. Integers only, no torch."""
