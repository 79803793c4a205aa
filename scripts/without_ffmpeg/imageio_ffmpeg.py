"""Stands in for imageio-ffmpeg on a machine that lacks it: everything else runs, and clips are sent as frames.

Add its folder to the end of PYTHONPATH.
"""

STAND_IN = True


def get_ffmpeg_exe() -> str:
    raise RuntimeError("there is no ffmpeg on this machine")
