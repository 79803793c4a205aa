"""Measures the memory of one checkpoint of SDXL's size that serves three tasks and borrows a ControlNet.

    OMP_NUM_THREADS=2 python benchmarks/resident_weights.py

Writes a checkpoint and a ControlNet with random weights of the real sizes in bfloat16 (9 GB of disk), loads them as the
server does and runs text-to-image, image-to-image, inpainting and a job with the ControlNet, small and short. Bars: the
lane holds the bytes of the base and the adapter within 2 %, and so does the process. It takes 10 GB of memory and a
few minutes; `--tiny` tries the script itself with a model of a few megabytes, for which the process has no bar.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import common
import diffusers
import torch
import transformers
from diffusers import ControlNetModel

from benchmarks.families import parts
from models.adapters.adapter_files import adapter_bytes, adapter_stamp
from models.catalogue import Catalogue
from models.loading.load import load, quiet_libraries
from pipelines.diffusion.lane import DiffusionLane
from pipelines.diffusion_interface import Adapter, Control, DiffusionRequest, Inputs
from pipelines.interface import Rendered
from tests.support.lanes.lane_play import ends, play
from tests.support.lanes.picture_jobs import mask_file, picture_file
from tests.support.lanes.stock_families import FAMILIES

CONFIGS = common.ROOT / "models/configs/sdxl"
SIDE = 256  # of the pictures: the weights are what is measured
MOST = 1.02  # of the bytes of base and adapter
DTYPE = torch.bfloat16


def write_base(folder: Path, *, tiny: bool) -> Any:
    """Writes the checkpoint and returns its U-Net."""
    pipeline = FAMILIES["sdxl"].build() if tiny else large_pipeline()
    pipeline.to(DTYPE).save_pretrained(folder)
    return pipeline.unet


def large_pipeline() -> Any:
    """Stable Diffusion XL by its published configs, with random weights and a tokenizer of a few words."""
    kinds = {
        "vae": diffusers.AutoencoderKL,
        "text_encoder": transformers.CLIPTextModel,
        "text_encoder_2": transformers.CLIPTextModelWithProjection,
        "unet": diffusers.UNet2DConditionModel,
    }
    made = {name: with_numbers(functools.partial(_from_config, cls, CONFIGS / name)) for name, cls in kinds.items()}
    scheduler = _from_config(diffusers.EulerDiscreteScheduler, CONFIGS / "scheduler")
    tokenizer = parts.clip_tokenizer()
    return diffusers.StableDiffusionXLPipeline(
        **made, scheduler=scheduler, tokenizer=tokenizer, tokenizer_2=tokenizer, add_watermarker=False
    )


def with_numbers(build: Callable[[], Any]) -> Any:
    """What `build` makes, with small random weights in bfloat16. Its own initialization would take minutes."""
    with torch.device("meta"):
        made = build()
    made = made.to(DTYPE).to_empty(device="cpu")
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.uniform_(-0.02, 0.02)
        for buffer in made.buffers():  # the positions of a text encoder
            buffer.copy_(torch.arange(buffer.numel()).reshape(buffer.shape))
    return made.eval()


def _from_config(cls: Any, folder: Path) -> Any:
    file = next(folder.glob("*config.json"))
    values = json.loads(file.read_text())
    return cls(cls.config_class(**values)) if hasattr(cls, "config_class") else cls.from_config(values)


def write_controlnet(folder: Path, unet: Any) -> Adapter:
    wanted = {} if unet.config.sample_size > 64 else {"conditioning_embedding_out_channels": (16, 32)}
    made = with_numbers(lambda: ControlNetModel.from_unet(unet, load_weights_from_unet=False, **wanted))
    made.save_pretrained(folder)
    return Adapter("canny", "controlnet", str(folder), adapter_stamp(folder), adapter_bytes(folder, DTYPE.itemsize))


def open_lane(data_dir: Path) -> DiffusionLane:
    (data_dir / "models.toml").write_text(
        '[models.base]\ntype = "image"\nsource = "models/base"\ndtype = "bfloat16"\n', "utf-8"
    )
    spec = Catalogue.open(data_dir=data_dir, cache_dir=data_dir / "cache").get("base")
    lane = load(spec, device="cpu", merging="off")
    assert isinstance(lane, DiffusionLane)
    return lane


def requests(folder: Path, adapter: Adapter, side: int) -> Sequence[DiffusionRequest]:
    usual: dict[str, Any] = {
        "prompt": "a red circle", "negative_prompt": None, "width": side, "height": side, "num_frames": None,
        "steps": 2, "guidance_scale": 1.0, "seed": 1,
    }  # fmt: skip
    photo, mask = picture_file(folder / "photo.png", side, side), mask_file(folder / "mask.png", side, side)
    prefix = "StableDiffusionXL"
    return (
        DiffusionRequest(id="text-to-image", **usual),
        DiffusionRequest(
            id="image-to-image", pipeline=f"{prefix}Img2ImgPipeline", inputs=Inputs(image=photo),
            input_arguments={"image": "image"}, strength=0.6, **usual,
        ),
        DiffusionRequest(
            id="inpainting", pipeline=f"{prefix}InpaintPipeline", inputs=Inputs(image=photo, mask=mask),
            input_arguments={"image": "image", "mask": "mask_image"}, strength=0.9, **usual,
        ),
        DiffusionRequest(
            id="with a ControlNet", pipeline=f"{prefix}ControlNetPipeline",
            inputs=Inputs(controls=(Control(photo, adapter),)), input_arguments={"control": "image"}, **usual,
        ),
    )  # fmt: skip


def process_bytes() -> int:
    """Returns the resident bytes of the process, once what is free has been given back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmRSS")))


def main() -> None:
    arguments = common.arguments(__doc__, ("--tiny", {"action": "store_true"}))
    quiet_libraries()
    diffusers.utils.logging.set_verbosity_error()
    report = common.Report("resident weights")
    side = 32 if arguments.tiny else SIDE
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        unet = write_base(folder / "models/base", tiny=arguments.tiny)
        adapter = write_controlnet(folder / "controlnet", unet)
        del unet
        empty = process_bytes()
        lane = open_lane(folder)
        base = lane.weight_bytes
        report.add("base, bytes", base)
        report.add("ControlNet, bytes", adapter.n_bytes)
        in_process = 0
        for request in requests(folder, adapter, side):
            lane.admit(request)
            end = ends(play(lane, most_steps=1_000_000))[request.id]
            assert isinstance(end, Rendered), end
            most = base + (adapter.n_bytes if request.inputs.controls else 0)
            report.add(f"{request.id}: lane / weights", lane.weight_bytes / most, most=MOST)
            grown = process_bytes() - empty
            in_process = in_process or grown  # with what a forward leaves behind beside the weights
            share = grown / (in_process + most - base)
            report.add(f"{request.id}: process / that of text-to-image + adapter", share,
                       most=None if arguments.tiny else MOST)  # fmt: skip
        report.add("process, bytes beside the base after text-to-image", in_process - base)
        lane.close()
    report.save(arguments.json)


if __name__ == "__main__":
    main()
