"""Training of the built-in models: one module per stage. scripts/train_builtin.py runs them in order."""
