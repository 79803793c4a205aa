"""The lane of a diffusion pipeline, image or video: stock pipelines called through the rendezvous. Device thread only."""
