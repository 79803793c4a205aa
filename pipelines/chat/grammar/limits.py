"""What one grammar may cost. Each limit ends the grammar with an error."""

from __future__ import annotations

from typing import Any

from llguidance import LLParserLimits

# Figures of a 2.5 GHz core. llguidance's own defaults are two to eight times as large.
VALUES: dict[str, Any] = {
    "initial_lexer_fuel": 500_000,  # to read a grammar: 10 ms
    "max_grammar_size": 60_000,  # symbols of its rules: 0.3 s
    "max_items_in_row": 2_000,
    "step_lexer_fuel": 100_000,  # of one token: 7 ms
    "step_max_items": 20_000,  # of one token: 1 to 10 ms
    "max_lexer_states": 50_000,  # 2 kB each
    "verbose_errors": False,
}
LIMITS = LLParserLimits(**VALUES)
