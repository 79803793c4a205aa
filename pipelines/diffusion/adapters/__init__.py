"""Modules that are lent to requests of a lane: ControlNets and the like. Device thread only."""
