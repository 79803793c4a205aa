"""Compares the loads of this tree with those of another one: seconds, CPU seconds and the memory at its highest.

    git worktree add /tmp/before COMMIT
    python benchmarks/load_time.py --before /tmp/before [--rounds 9] [--only sdxl]

Three checkpoints of random numbers in half precision: a folder of SDXL's structure, one file of SD 1.5 and a Llama.
The files are in the page cache. Both sides take turns, a fresh process for each load, and the order changes with each
round; so other work on the machine meets both. The ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import common
import diffusers
import torch
from transformers import CLIPTextModelWithProjection, LlamaConfig, LlamaForCausalLM

from benchmarks.families import parts, vaes
from models.loading.load import quiet_libraries
from tests.support.lanes.original_layout import write_whole_file
from tests.support.lanes.tiny_chat import tiny_tokenizer

CHILD = Path(__file__).with_name("load_time_child.py")
MOST = 1.03  # of the ratios, after over before
QUIET = {"TRANSFORMERS_VERBOSITY": "critical", "DIFFUSERS_VERBOSITY": "critical", "PYTHONWARNINGS": "ignore"}
MIB = 2**20
MEASURES = {"catalogue_s": ("s", 1), "load_s": ("s", 1), "cpu_s": ("s", 1), "peak_bytes": ("MiB", MIB)}


def main() -> None:
    arguments = common.arguments(
        __doc__,
        ("--before", {"type": Path, "required": True, "metavar": "FOLDER", "help": "the tree to compare with"}),
        ("--rounds", {"type": int, "default": 9, "help": "loads of each checkpoint by each side (default: 9)"}),
        ("--only", {"choices": list(BUILD), "default": None, "help": "one checkpoint alone"}),
    )
    quiet_libraries()
    diffusers.utils.logging.set_verbosity_error()
    report = common.Report("load time and memory")
    trees = {"before": arguments.before.resolve(), "after": common.ROOT}
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder)
        names = [name for name in BUILD if arguments.only in (None, name)]
        _write(data_dir, names)
        for name in names:
            _compare(report, trees, data_dir, name, arguments.rounds)
    report.save(arguments.json)


def _compare(report: common.Report, trees: dict[str, Path], data_dir: Path, name: str, rounds: int) -> None:
    n_bytes = sum(file.stat().st_size for file in (data_dir / "models").glob(f"{name}*/**/*.safetensors"))
    report.add(f"{name}: weights", n_bytes / MIB, "MiB")
    for tree in trees.values():
        _measured(tree, data_dir, name)  # fills the page cache, and writes compiled modules
    found: dict[str, dict[str, list[float]]] = {side: defaultdict(list) for side in trees}
    for number in range(rounds):
        for side in sorted(trees, reverse=number % 2 == 0):
            for what, value in _measured(trees[side], data_dir, name).items():
                found[side][what].append(value)
    for what, unit, scale in (
        ("catalogue_s", "s", 1),
        ("load_s", "s", 1),
        ("cpu_s", "s", 1),
        ("peak_bytes", "MiB", MIB),
    ):
        before, after = found["before"][what], found["after"][what]
        report.add(f"{name}: {what}, before", common.median(before) / scale, unit)
        report.add(f"{name}: {what}, after", common.median(after) / scale, unit)
        ratio = common.median(b / a for a, b in zip(before, after, strict=True))
        bar = {} if what == "catalogue_s" else {"most": MOST}  # it reads more of the files than before, once a start
        report.add(f"{name}: {what}, ratio", ratio, "x", **bar)


def _measured(tree: Path, data_dir: Path, name: str) -> dict[str, float]:
    env = os.environ | {
        "PYTHONPATH": str(tree),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONWARNINGS": "ignore",
    }
    command = [sys.executable, str(CHILD), str(data_dir), name]
    ended = subprocess.run(command, env=env, cwd=tree, check=False, capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(f"{tree} does not load {name}:\n{ended.stderr}")
    return dict(json.loads(ended.stdout.splitlines()[-1]))


# The checkpoints: each once large, and once small for the imports


def _write(data_dir: Path, names: list[str]) -> None:
    models = data_dir / "models"
    entries = []
    for name in names:
        for size, folder in ((4, f"small-{name}"), (WIDTH[name], name)):
            torch.manual_seed(0)
            BUILD[name](models / folder, size)
            entries += _one_file(models / folder) if name == "one-file" else []
    (data_dir / "models.toml").write_text("\n".join(entries))


def _one_file(folder: Path) -> list[str]:
    """Writes the single file of the pipeline in `folder`, which becomes its base. Returns its entry in models.toml."""
    base = folder.parents[1] / "bases" / folder.name
    base.parent.mkdir(exist_ok=True)
    folder.rename(base)
    folder.mkdir()
    write_whole_file(base, folder / "model.safetensors")
    for weights in base.rglob("*.safetensors"):
        weights.unlink()
    return [f"[models.{folder.name}]", f'source = "{folder}/model.safetensors"', f"[models.{folder.name}.load]",
            f'base = "{base}"']  # fmt: skip


def _sdxl(folder: Path, width: int) -> None:
    unet = diffusers.UNet2DConditionModel(
        sample_size=64,
        block_out_channels=(width, 2 * width, 4 * width),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(1, 2, 4),
        transformer_layers_per_block=(1, 2, 4),
        norm_num_groups=4,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 4 * width,
        cross_attention_dim=6 * width,
    )
    _save(
        diffusers.StableDiffusionXLPipeline(
            unet=unet,
            vae=_vae(width),
            text_encoder=_clip(2 * width),
            text_encoder_2=_clip(4 * width, CLIPTextModelWithProjection),
            tokenizer=parts.clip_tokenizer(),
            tokenizer_2=parts.clip_tokenizer(),
            scheduler=diffusers.EulerDiscreteScheduler(steps_offset=1),
            add_watermarker=False,
        ),
        folder,
    )


def _sd15(folder: Path, width: int) -> None:
    cross = ["CrossAttn{}Block2D"] * 3
    unet = diffusers.UNet2DConditionModel(
        sample_size=64,
        block_out_channels=(width, 2 * width, 4 * width, 4 * width),
        down_block_types=[name.format("Down") for name in [*cross, "{}Block2D"]],
        up_block_types=[name.format("Up") for name in ["{}Block2D", *cross]],
        attention_head_dim=2,
        norm_num_groups=4,
        cross_attention_dim=2 * width,
    )
    _save(
        diffusers.StableDiffusionPipeline(
            unet=unet,
            vae=_vae(width),
            text_encoder=_clip(2 * width),
            tokenizer=parts.clip_tokenizer(),
            scheduler=diffusers.EulerDiscreteScheduler(steps_offset=1),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ),
        folder,
    )


def _llama(folder: Path, width: int) -> None:
    config = LlamaConfig(vocab_size=32_000, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=12,
                         num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024)  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)


def _vae(width: int) -> Any:
    return vaes.small_vae(4, (width, width, 2 * width, 2 * width))


def _clip(width: int, cls: Any = None) -> Any:
    return parts.clip_text(*([cls] if cls else []), dim=width, layers=10, intermediate_size=4 * width)


def _save(pipeline: Any, folder: Path) -> None:
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.to(torch.float16)
    pipeline.save_pretrained(folder)


BUILD = {"sdxl": _sdxl, "one-file": _sd15, "llama": _llama}
WIDTH = {"sdxl": 128, "one-file": 160, "llama": 1024}  # some 500 MB each in half precision

if __name__ == "__main__":
    main()
