"""Records the forwards of a denoiser as CUDA graphs, where the host would take longer to launch them than they run."""
