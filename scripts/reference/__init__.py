"""The generated parts of the pages about other dialects of the API, one module a section."""
