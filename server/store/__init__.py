"""What must survive a crash: keys, jobs, charges. Plain functions over a SQLAlchemy Core connection; rows are frozen dataclasses."""
