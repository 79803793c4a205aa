"""The HTTP routes, one file per resource. Each route validates the request, calls the service and builds the reply."""
