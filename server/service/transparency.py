"""Makes a mask of the transparent parts of a picture, which is how OpenAI's clients send masks. Event loop only."""

from __future__ import annotations

import io

from PIL import Image, ImageChops

from pipelines.diffusion_interface import MediaFile
from server.accounts.auth import ApiKey
from server.jobs.inputs.files import InputFiles
from server.jobs.request.generate_request import Media
from server.service.picture_work import work_on


async def mask_of_transparency(input_files: InputFiles, key: ApiKey, picture: MediaFile) -> Media | None:
    """Returns the id of a mask that is white where the picture is transparent; None when no part of it is.

    Raises what `InputFiles.add` does.
    """
    mask = await work_on(_mask, picture.path)
    return None if mask is None else (await input_files.add(key, mask, listed=False, place="mask")).id


def _mask(path: str) -> bytes | None:
    """The file was checked when it was taken, and has an alpha channel only if not all of it is opaque."""
    with Image.open(path, formats=("PNG",)) as picture:
        if "A" not in picture.getbands():
            return None
        alpha = picture.getchannel("A")
    if alpha.getextrema()[0] != 0:  # smooth edges of a drawing are not meant as a mask
        return None
    mask = io.BytesIO()
    ImageChops.invert(alpha).save(mask, "PNG", compress_level=1)
    return mask.getvalue()
