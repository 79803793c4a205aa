"""Finds the stock pipeline classes that can be made over the modules of one checkpoint, and what each of them takes.

Beside the checkpoint's own class these are its relatives by diffusers' naming: StableDiffusionPipeline has
StableDiffusionImg2ImgPipeline. A relative counts when it needs no component that the checkpoint lacks, except those
that an adapter lends, when the two expect the same class of denoiser and VAE, and when the denoiser has the input
channels that the relative gives it. Pure functions over configs and the sources of diffusers; no torch.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache

from models.checkpoint.component_configs import Config, Configs, denoiser_config, positive_int
from models.checkpoint.denoiser_input import DENOISERS, is_inpainting, latent_channels, takes_channels
from models.checkpoint.pipeline_inputs import PipelineInputs
from models.checkpoint.pipeline_source import module_of, pipeline_source
from models.checkpoint.video_frames import patched_frame_rule
from models.installed_libraries import pipeline_files
from models.pipeline_signature import pipeline_signature
from pipelines.diffusion_interface import PipelineTask

# Parts of class names that tell what a class is given; without them, relatives have the same name.
TASK = re.compile(
    r"Img2Img|Image2Video|ImageToVideo|TextToVideo|VideoToVideo|Inpaint(ing)?|(Sparse)?ControlNet(Union)?|Control"
    r"|Condition|Combined|Adapter|[TI]2[IV](?!A)|LongMultiPrompt"
)
VIDEO_AT_END = re.compile(r"(?<=.)Video$")  # SanaVideo and SanaImageToVideo
SHIFTING = "use_dynamic_shifting"  # of a noise scheduler
LENT = ("controlnet", "adapter")  # components that an adapter lends
COMPARED = (
    *DENOISERS,
    "vae",
    "movq",
    *LENT,
)  # components whose classes differ between relatives that cannot share them
CONTAINERS = ("list", "tuple", "List", "Tuple", "Union", "Optional", "None")
# Classes that would be relatives by their name, and why their result is not what a request asks for.
NOT_A_RELATIVE = {
    "LTXI2VLongMultiPromptPipeline": "makes long clips from several prompts; LTXImageToVideoPipeline makes one clip",
    "LTX2DFRPipeline": "has a schedule of steps of its own, for checkpoints that were distilled for it",
}


def tasks_of(
    class_name: str, components: Collection[str], configs: Configs, settings: Config | None = None
) -> tuple[PipelineTask, ...]:
    """Returns the checkpoint's own class first, then its relatives; an alternative set of inputs is a task of its own.

    components: the names of those that the checkpoint has. configs: also of its noise scheduler. settings: its
    model_index.json, which holds plain values of the class too.
    """
    own = pipeline_source(class_name)
    if own is None or own.makes is None:
        return ()
    tasks = [*_tasks(class_name, own.inputs, {}, configs, settings or {})]
    seen = [(task.inputs, task.required, task.lent) for task in tasks]
    needed = frozenset.intersection(*(task.required for task in tasks))
    for name in _relatives(class_name):
        source, lent = pipeline_source(name), _lent(class_name, name, components)
        if source is None or source.makes != own.makes or lent is None:
            continue
        if not takes_channels(class_name, name, configs, settings or {}) or not _sees_pictures(configs):
            continue
        if own.shifts_schedule and not source.shifts_schedule and configs.get("scheduler", {}).get(SHIFTING):
            continue  # the scheduler would miss what it shifts by (LTX-Video up to 0.9.1 with conditions)
        for task in _tasks(name, source.inputs, lent, configs, settings or {}):
            signs = (task.inputs, task.required, task.lent)
            # What a checkpoint always needs (an inpainting one: picture and mask), its relatives cannot do without.
            if task.inputs and needed <= task.required and signs not in seen:
                tasks.append(task)
                seen.append(signs)
    return tuple(tasks)


def inpainting_class(class_name: str, classes: Mapping[str, str], configs: Configs) -> str | None:
    """Returns the class for inpainting that a checkpoint needs though its index names the one for prompts alone.

    Its U-Net then takes a picture and a mask. None: the checkpoint is what its index says. classes: component → class.
    """
    channels = positive_int(configs.get("unet", {}), "in_channels")
    source = pipeline_source(class_name)
    if (
        source is None
        or source.text_to is None
        or not is_inpainting(classes.get("unet", ""), channels, latent_channels(configs))
    ):
        return None
    relatives = (name for name in _relatives(class_name) if "Inpaint" in name)
    return next((name for name in relatives if _lent(class_name, name, classes) == {}), None)


def _tasks(
    name: str,
    alternatives: Collection[PipelineInputs],
    lent: Mapping[str, tuple[str, ...]],
    configs: Configs,
    settings: Config,
) -> Iterator[PipelineTask]:
    source = pipeline_source(name)
    assert source is not None
    frames = patched_frame_rule(configs) if source.patches_frames else None
    for each in alternatives:
        inputs = dict(each.arguments)
        if settings.get("expand_timesteps") or _sees_one_picture(configs):
            inputs.pop("last_image", None)  # Wan 2.2 5B keeps the first frame and has no place for the last one
        yield PipelineTask(name, inputs, each.required, source.arguments, lent, frames)


def _relatives(class_name: str) -> list[str]:
    """Returns the other classes of the family by name; deprecated ones only for a deprecated class."""
    deprecated = ".deprecated." in (module_of(class_name) or "")
    return [
        name
        for name in _families()[_stem(class_name)]
        if name != class_name
        and name not in NOT_A_RELATIVE
        and (".deprecated." in (module_of(name) or "")) == deprecated
    ]


@lru_cache(maxsize=1)
def _families() -> Mapping[str, list[str]]:
    families: dict[str, list[str]] = defaultdict(list)
    # The shortest name first: where two classes take the same inputs, it is the plainer one.
    for name in sorted(pipeline_files(), key=lambda each: (len(each), each)):
        if name.endswith("Pipeline"):
            families[_stem(name)].append(name)
    return families


def _stem(class_name: str) -> str:
    return VIDEO_AT_END.sub("", TASK.sub("", class_name.removesuffix("Pipeline")))


def _lent(own: str, relative: str, components: Collection[str]) -> dict[str, tuple[str, ...]] | None:
    """Returns the components that an adapter must lend; None when the relative needs others that are missing."""
    ours, theirs = pipeline_signature(own), pipeline_signature(relative)
    if ours is None or theirs is None:
        return None
    for name in COMPARED:
        a, b = (set(_single(signature.classes.get(name, ()))) for signature in (ours, theirs))
        if a and b and not a & b:
            return None
    # A component that both take may be null in the checkpoint: its own class does without it too.
    missing = {name for name in theirs.required - ours.components if name not in components}
    if missing - set(LENT):
        return None
    return {name: _single(theirs.classes.get(name, ())) for name in sorted(missing)}


def _single(annotated: Collection[str]) -> tuple[str, ...]:
    """Leaves out lists of ControlNets, which diffusers wraps into a Multi… class itself."""
    return tuple(name for name in annotated if name not in CONTAINERS and "Multi" not in name)


def _sees_one_picture(configs: Configs) -> bool:
    """Whether a denoiser of Wan reads the features of the first frame alone: Wan 2.1's for two frames has positions."""
    denoiser = denoiser_config(configs)
    return bool(denoiser.get("image_dim")) and not denoiser.get("pos_embed_seq_len")


def _sees_pictures(configs: Configs) -> bool:
    """Returns whether the denoiser was trained to see a picture. Kandinsky 5 has a switch for it, others do not say."""
    return denoiser_config(configs).get("visual_cond") is not False
