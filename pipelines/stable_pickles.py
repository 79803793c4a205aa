"""Pickles torch's memory formats under one name. Import it wherever code is compiled; the import does the work.

A key of the compiler's cache is made of pickled inputs, and so of their memory format. Python pickles one under the
name of the module that was the first in this process to import torch. Where that differs between the server and the
process that compiles, the server would find nothing of what was compiled. torch does the same for `torch.layout`.
"""

from __future__ import annotations

import copyreg

import torch


def _memory_format(name: str) -> torch.memory_format:
    found: torch.memory_format = getattr(torch, name)
    return found


copyreg.pickle(torch.memory_format, lambda each: (_memory_format, (str(each).removeprefix("torch."),)))
