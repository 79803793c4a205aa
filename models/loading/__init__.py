"""Turns a model's specification into a lane on a device. With sources.convert the only code here that imports torch."""
