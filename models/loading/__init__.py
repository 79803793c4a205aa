"""Turns a model's spec into a lane on a device, with torch. Device thread only, except `read_ahead`."""
