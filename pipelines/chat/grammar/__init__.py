"""Grammars: replies that have the form a client asked for, such as JSON of a schema. No torch."""
