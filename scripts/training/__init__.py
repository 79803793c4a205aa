"""How the built-in models are trained: one module per stage, run in order by scripts/train_builtin.py."""
