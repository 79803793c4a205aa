"""Measures how well the built-in models follow prompts that training never used.

    python benchmarks/builtin_quality.py --out quality.json --images sheets/

Prints the share of correct attributes, each with the bar it has to reach, and the seconds per picture and per clip.
"""

import argparse
import json
import statistics
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "benchmarks")]

import quality_judge as judge  # noqa: E402  (needs the path above)
from diffusers import DiffusionPipeline  # noqa: E402
from scenes import captions  # noqa: E402
from scenes.attributes import KINDS, TIMES, Drawing, is_held_out, random_drawing  # noqa: E402

BARS = {
    "image shape colour": 0.95,
    "image background": 0.95,
    "image place": 0.90,
    "image scene kind": 0.90,
    "image time of day": 0.90,
    "clip shape colour": 0.95,
    "clip background": 0.95,
    "clip motion": 0.90,
    "clip scene kind": 0.90,
    "clip time of day": 0.90,
}
TRAINING_CAPTIONS_CHECKED = 20_000


class Model:
    """A built-in pipeline with the defaults of its entry in models.toml."""

    def __init__(self, folder: Path, name: str):
        entry = tomllib.loads((folder / "models.toml").read_text())["models"][name]
        self.defaults, self.call = entry.get("defaults", {}), entry.get("call", {})
        self.sizes = [tuple(size) for size in entry.get("sizes", {}).values()]
        self.pipeline = DiffusionPipeline.from_pretrained(folder / entry["source"], torch_dtype=torch.float32)
        self.pipeline.set_progress_bar_config(disable=True)
        self.seconds: list[float] = []

    def __call__(self, prompt: str, seed: int, size: tuple[int, int], **arguments) -> np.ndarray:
        """Returns bytes: (H, W, 3), or (frames, H, W, 3) if num_frames is given."""
        started = time.perf_counter()
        result = self.pipeline(
            prompt=prompt,
            width=size[0],
            height=size[1],
            num_inference_steps=self.defaults["steps"],
            guidance_scale=self.defaults["guidance_scale"],
            generator=torch.Generator("cpu").manual_seed(seed),
            output_type="np",
            **arguments,
            **self.call,
        )
        self.seconds.append(time.perf_counter() - started)
        pixels = result.frames[0] if "num_frames" in arguments else result.images[0]
        return (np.asarray(pixels) * 255).round().clip(0, 255).astype(np.uint8)


def make_prompts(rng: np.random.Generator, shapes: int, scenes: int, video: bool) -> list[tuple[str, Drawing]]:
    """Returns held-out prompts and the drawings they describe. Scenes cycle through the kinds and times."""
    prompts = []
    while len(prompts) < shapes:
        drawing = random_drawing(rng, video, held_out=True, shape_share=1.0)
        prompts.append((captions.plain_shape(drawing), drawing))
    for i in range(scenes):
        drawing = Drawing("scene", 0, kind=KINDS[i % len(KINDS)], time=TIMES[i // len(KINDS) % len(TIMES)])
        prompts.append((captions.held_out_scene(drawing, rng), drawing))
    return prompts


def check_held_out(prompts: list[tuple[str, Drawing]], rng: np.random.Generator) -> None:
    """Raises AssertionError if training may have used one of the prompts."""
    wordings = set(captions.HELD_OUT_SCENE_TEMPLATES) & set(captions.SCENE_TEMPLATES)
    assert not wordings, f"held-out sentences are used in training: {wordings}"
    assert all(is_held_out(drawing) for _, drawing in prompts if drawing.type == "shape")
    prompt_texts = {text.lower() for text, _ in prompts}
    for i in range(TRAINING_CAPTIONS_CHECKED):
        text = captions.caption(random_drawing(rng, video=i % 2 == 1), rng)[0].lower()
        assert text not in prompt_texts, f"a training caption is a benchmark prompt: {text}"


def judge_picture(prefix: str, pixels: np.ndarray, drawing: Drawing, classifier: judge.SceneClassifier) -> dict:
    """Judges one picture or the middle frame of a clip: attribute → whether it is right."""
    if drawing.type == "scene":
        kind, daytime = judge.scene_of(classifier, pixels)
        return {f"{prefix} scene kind": kind == drawing.kind, f"{prefix} time of day": daytime == drawing.time}
    background = judge.background_of(pixels)
    colour, mask = judge.shape_of(pixels, background)
    verdicts = {
        f"{prefix} shape colour": colour == drawing.colour,
        f"{prefix} background": background == drawing.background,
    }
    if not drawing.motion:
        verdicts[f"{prefix} place"] = judge.place_of(mask) == drawing.place
    return verdicts


def sheet(pictures: list[np.ndarray], columns: int, path: Path) -> None:
    """Writes pictures of any sizes into one PNG file, each in a cell of 180 × 180."""
    cells = Image.new("RGB", (columns * 180, -(-len(pictures) // columns) * 180), (32, 32, 32))
    for i, pixels in enumerate(pictures):
        left, top = i % columns * 180, i // columns * 180
        cells.paste(Image.fromarray(pixels), (left + (180 - pixels.shape[1]) // 2, top + (180 - pixels.shape[0]) // 2))
    path.parent.mkdir(parents=True, exist_ok=True)
    cells.save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, default=ROOT / "models" / "builtin", help="folder with models.toml")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    parser.add_argument("--images", type=Path, help="write contact sheets into this folder")
    parser.add_argument("--pictures", type=int, default=130, help="picture prompts, 6 of 10 of them shapes")
    parser.add_argument("--clips", type=int, default=70, help="clip prompts, 6 of 10 of them shapes")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rng = np.random.default_rng(arguments.seed)
    counts = {video: n for video, n in ((False, arguments.pictures), (True, arguments.clips)) if n}
    prompts = {video: make_prompts(rng, n * 6 // 10, n - n * 6 // 10, video) for video, n in counts.items()}
    check_held_out([prompt for some in prompts.values() for prompt in some], rng)
    image_sizes = [(128, 128), (176, 96), (96, 176)]
    classifier, accuracy = judge.train_classifier(image_sizes)
    print(f"scene classifier: {accuracy:.1%} right on drawings", flush=True)

    verdicts: dict[str, list[bool]] = {}
    shown: dict[str, list[np.ndarray]] = {"pictures": [], "clips": []}
    wrong: list[dict] = []
    report: dict = {"classifier_accuracy": accuracy, "threads": arguments.threads, "seed": arguments.seed}
    for video, some in prompts.items():
        model = Model(arguments.models, "tiny-motion" if video else "tiny-scenes")
        for i, (text, drawing) in enumerate(some):
            size = (model.defaults["width"], model.defaults["height"]) if video else image_sizes[i % 3]
            if video:
                frames = model(text, i, size, num_frames=model.defaults["num_frames"])
                found = judge_picture("clip", frames[len(frames) // 2], drawing, classifier)
                if drawing.motion:
                    found["clip motion"] = judge.motion_of(frames, drawing.colour) == drawing.motion
                shown["clips"] += list(frames[[0, len(frames) // 3, 2 * len(frames) // 3, -1]])
            else:
                pixels = model(text, i, size)
                found = judge_picture("image", pixels, drawing, classifier)
                shown["pictures"].append(pixels)
            for name, right in found.items():
                verdicts.setdefault(name, []).append(bool(right))
            if not all(found.values()):
                wrong.append({"prompt": text, "seed": i, "wrong": [name for name, right in found.items() if not right]})
        report["seconds per clip" if video else "seconds per picture"] = round(statistics.median(model.seconds), 3)

    print(f"{'what':<20} {'right':>7} {'of':>4} {'bar':>5}")
    for name, bar in BARS.items():
        if name in verdicts:
            share = float(np.mean(verdicts[name]))
            report[name] = {"right": round(share, 4), "of": len(verdicts[name]), "bar": bar, "met": share >= bar}
            print(f"{name:<20} {share:>7.1%} {len(verdicts[name]):>4} {bar:>5.0%} {'' if share >= bar else 'missed'}")
    for name in ("seconds per picture", "seconds per clip"):
        if name in report:
            print(f"{name:<20} {report[name]:.2f}")
    report["wrong"] = wrong
    if arguments.out:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    if arguments.images:
        for name, columns in (("pictures", 10), ("clips", 8)):
            if shown[name]:
                sheet(shown[name], columns, arguments.images / f"{name}.png")


if __name__ == "__main__":
    main()
