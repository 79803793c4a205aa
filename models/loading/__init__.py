"""Turns a model's specification into a lane on a device. The only code of this package that imports torch; device thread only."""
