"""The routes of AUTOMATIC1111's API, which clients such as Open WebUI use to generate images.

Under /sdapi and /controlnet the key may also be the password of Basic authentication, because these clients can send
nothing else.
"""

from __future__ import annotations

from fastapi import APIRouter

from server.api.sdapi import extras, generation, lists, png_info, progress, settings

router = APIRouter(tags=["AUTOMATIC1111"])
for part in (generation, extras, png_info, progress, lists, settings):
    router.include_router(part.router, prefix="/sdapi/v1")
router.include_router(lists.controlnet_router)
