"""One file per schema revision, in order. A released revision never changes what it does."""
