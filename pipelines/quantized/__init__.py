"""Linear layers that compute from weights of few bits, and the kernels that they need."""
