"""HTTP below the routes: parsing, limits, headers, error bodies and event streams."""
