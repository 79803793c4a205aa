"""The lane of a diffusion pipeline, image or video: stock pipelines, batched by the rendezvous. Device thread only."""
