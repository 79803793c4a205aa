"""Sends pictures and clips to be changed: the openai library and litellm. Prints the sizes and kinds of the results.

Arguments: one model that paints over masks, one that takes several pictures, one that changes clips, and the base64 of
a picture and of a mask, both PNG.
"""

import base64
import io
import json
import sys
import time

import litellm
from openai import OpenAI

address, key, retoucher, follower, reviser, *pictures = sys.argv[1:]
picture, mask = (base64.b64decode(each) for each in pictures)
ai = OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0)


def kinds(reply):
    return [base64.b64decode(image.b64_json)[1:4].decode() for image in reply.data]


def finished(video):
    while video.status in ("queued", "in_progress"):
        time.sleep(0.05)
        video = ai.videos.retrieve(video.id)
    assert video.status == "completed", video.error
    return video


def of_openai():
    edit = ai.images.edit(
        image=("a.png", picture, "image/png"), mask=mask, prompt="a hat", model=retoucher, n=2, size="auto",
        output_format="png", output_compression=100, background="auto", quality="auto", input_fidelity="high",
        user="anna", extra_body={"steps": 2, "seed": 7},
    )  # fmt: skip
    several = ai.images.edit(image=[io.BytesIO(picture), mask], prompt="both", model=follower, extra_body={"steps": 2})
    variation = ai.images.create_variation(
        image=picture, model=retoucher, size="64x64", response_format="b64_json", extra_body={"steps": 2}
    )
    return {
        "edit": kinds(edit), "edit size": edit.size, "several": kinds(several), "variation": kinds(variation),
        "variation size": variation.size,
    }  # fmt: skip


def videos():
    """The library cannot send objects in place of the files here, though its types allow them; Node's can."""
    sent = finished(ai.videos.create(prompt="Waves", model=reviser, input_reference=("a.png", picture, "image/png")))
    remix = finished(ai.videos.remix(sent.id, prompt="Night"))
    clip = ai.videos.download_content(remix.id).content
    edit = finished(ai.videos.edit(prompt="Snow", video=("a.mp4", clip, "video/mp4"), extra_body={"model": reviser}))
    return {
        "sizes": [video.size for video in (sent, remix, edit)],
        "remixed": remix.remixed_from_video_id == sent.id,
        "clip": clip[4:8].decode(),
    }


def of_litellm():
    options = {"api_base": f"{address}/v1", "api_key": key}
    edit = litellm.image_edit(
        image=io.BytesIO(picture), prompt="a hat", model=f"openai/{retoucher}", n=1, extra_body={"steps": 2}, **options
    )
    several = litellm.image_edit(
        image=[io.BytesIO(picture), io.BytesIO(mask)], prompt="both", model=f"openai/{follower}", **options
    )
    return {"edit": kinds(edit), "several": kinds(several)}


print(json.dumps({"openai": of_openai(), "videos": videos(), "litellm": of_litellm()}))
