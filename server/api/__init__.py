"""HTTP: one file a resource. Each route reads the request, asks the service, writes the reply."""
