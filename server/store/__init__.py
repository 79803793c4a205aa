"""The database: keys, jobs, charges, conversations and learned values, all of which survive a crash.

The modules are plain functions over a SQLAlchemy Core connection; rows are frozen dataclasses.
"""
