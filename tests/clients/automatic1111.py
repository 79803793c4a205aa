"""AUTOMATIC1111's API by the package webuiapi: makes, changes, repaints, enlarges and reads pictures.

Arguments: an image model that paints over masks, and a ControlNet. Prints what came back.
"""

import json
import sys

import webuiapi
from PIL import Image

address, key, model, controlnet = sys.argv[1:]
api = webuiapi.WebUIApi(baseurl=f"{address}/sdapi/v1", sampler="Euler a", steps=2, username="anybody", password=key)
api.set_options({"sd_model_checkpoint": model})

picture = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
mask = Image.new("L", (64, 64))
mask.paste(255, (32, 0, 64, 64))
size = {"width": 64, "height": 64}


def kinds(reply):
    return [[image.format, *image.size] for image in reply.images]


made = api.txt2img(prompt="a city", negative_prompt="people", seed=7, batch_size=2, **size)
changed = api.img2img(images=[made.image], prompt="at night", seed=8, denoising_strength=0.6, **size)
painted = api.img2img(images=[picture], mask_image=mask, prompt="a hat", inpainting_fill=1, mask_blur=2, **size)
unit = webuiapi.ControlNetUnit(image=picture, module="canny", model=controlnet, weight=0.5, guidance_end=0.8)
refused = None
try:
    controlled = kinds(api.txt2img(prompt="a city", controlnet_units=[unit], **size))
except RuntimeError as error:
    controlled, refused = None, error.args[0]
larger = api.extra_single_image(image=picture, upscaler_1=webuiapi.Upscaler.Lanczos, upscaling_resize=1.5)
several = api.extra_batch_images(images=[picture, mask], upscaler_1="Nearest", upscaling_resize=2)
info = api.png_info(made.image)

print(
    json.dumps(
        {
            "made": kinds(made), "changed": kinds(changed), "painted": kinds(painted), "controlled": controlled,
            "refused": refused, "larger": kinds(larger), "several": kinds(several),
            "seeds": [made.info["all_seeds"], changed.info["seed"]],
            "ignored": [reply.info["ignored"] for reply in (made, changed, painted)],
            "prompt": info.parameters["Prompt"], "negative": info.parameters["Negative prompt"],
            "models": api.util_get_model_names(), "controlnets": api.controlnet_model_list(),
            "modules": api.controlnet_module_list(), "current": api.util_get_current_model(),
            "upscalers": [each["name"] for each in api.get_upscalers()], "idle": api.get_progress()["progress"],
        }
    )
)  # fmt: skip
