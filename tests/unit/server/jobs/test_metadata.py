"""The text that is written into an image is read back by AUTOMATIC1111's own rules, whatever the prompt holds."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.job import State
from server.jobs.file_hashes import FileHashes
from server.jobs.metadata import file_metadata
from server.jobs.sampler_names import sampler_of
from server.store.jobs import JobRow
from tests.support.checkpoints import safetensors_bytes

PARAMETER = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')  # as AUTOMATIC1111 1.10 reads them
TENSORS: dict[str, Any] = {"unet.x.lora_A.weight": ("F32", [2, 8], 64), "unet.x.lora_B.weight": ("F32", [8, 2], 64)}


def read_back(text: str) -> dict[str, str]:
    """Does what `parse_generation_parameters` of AUTOMATIC1111 does."""
    *lines, last = text.strip().split("\n")
    if len(PARAMETER.findall(last)) < 3:
        lines, last = [*lines, last], ""
    found = {"Prompt": "", "Negative prompt": ""}
    reading = "Prompt"
    for raw in lines:
        line = raw.strip()
        if line.startswith("Negative prompt:"):
            reading, line = "Negative prompt", line[16:].strip()
        found[reading] += ("\n" if found[reading] else "") + line
    for name, value in PARAMETER.findall(last):
        found[name] = json.loads(value) if value[:1] == '"' == value[-1:] else value
    return found


def row(**request: Any) -> JobRow:
    usual = {
        "prompt": "a cat", "negative_prompt": None, "width": 64, "height": 32, "steps": 20, "guidance_scale": 7.5,
        "seed": 5, "clip_skip": None, "loras": [], "checkpoint": None,
    }  # fmt: skip
    now = datetime(2026, 1, 2, tzinfo=UTC)
    stored = {**usual, **request}
    params = {"loras": [{"name": each["name"], "weight": each["weight"]} for each in stored["loras"]]}
    return JobRow(
        id="job_1", key_id="k", type="image", model="sd-1.5", state=State.QUEUED, request=stored, params=params,
        warnings=[], charged_day=None, charged_kind=None, charged_units=0, attempt=1, created_at=now,
    )  # fmt: skip


def written(scheduler: str = "EulerAncestralDiscreteScheduler", **request: Any) -> str:
    return file_metadata(row(**request), 0, scheduler, FileHashes()).parameters


def lora(folder: Path, name: str = "ink", weight: float = 0.8, data: bytes | None = None) -> dict[str, Any]:
    path = folder / f"{name}.safetensors"
    path.write_bytes(safetensors_bytes(TENSORS) if data is None else data)
    return {"name": name, "weight": weight, "path": str(path), "stamp": path.stat().st_mtime_ns, "n_bytes": 0}


def test_the_text_has_the_strength_the_pipeline_and_the_hashes_of_the_inputs() -> None:
    picture, mask = {"sha256": "ab" * 32}, {"sha256": "cd" * 32}
    inputs = {"image": picture, "images": [mask], "controls": [{"image": picture, "adapter": None}]}

    found = read_back(written(strength=0.5, pipeline="StableDiffusionImg2ImgPipeline", inputs=inputs))

    assert found["Denoising strength"] == "0.5"
    assert found["Pipeline"] == "StableDiffusionImg2ImgPipeline"
    assert found["Input hashes"] == "image: abababababab, images[0]: cdcdcdcdcdcd, control[0]: abababababab"
    assert "Denoising strength" not in written()


def test_the_text_has_what_automatic1111_writes(tmp_path: Path) -> None:
    text = written(negative_prompt="blurred", clip_skip=1, loras=[lora(tmp_path)])

    found = read_back(text)

    digest = hashlib.sha256(bytes(128)).hexdigest()[:12]
    assert text.startswith(
        "a cat <lora:ink:0.8>\nNegative prompt: blurred\nSteps: 20, Sampler: Euler a, CFG scale: 7.5,"
    )
    assert f'Lora hashes: "ink: {digest}"' in text
    assert found.pop("Version").startswith("AgentName ")
    assert found == {
        "Prompt": "a cat <lora:ink:0.8>",
        "Negative prompt": "blurred",
        "Steps": "20",
        "Sampler": "Euler a",
        "CFG scale": "7.5",
        "Seed": "5",
        "Size": "64x32",
        "Model": "sd-1.5",
        "Clip skip": "2",
        "Lora hashes": f"ink: {digest}",
    }


NASTY = [
    "one\ntwo\n\nthree",
    "Steps: 5, Sampler: DDIM, Seed: 1",
    'a "quoted", colon: comma, \\ backslash',
    "(cat:1.2) [dog|fox] <hypernet:x:1>",
    "a\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 1x1",
    "猫と犬, café",
]


@pytest.mark.parametrize("prompt", NASTY)
@pytest.mark.parametrize("negative", [None, *NASTY])
def test_prompts_are_read_back(prompt: str, negative: str | None) -> None:
    found = read_back(written(prompt=prompt, negative_prompt=negative))

    assert found["Prompt"] == prompt
    assert found["Negative prompt"] == (negative or "")
    assert found["Seed"] == "5"


@pytest.mark.parametrize(
    ("prompt", "read"),
    [
        ("a cat\nNegative prompt: dogs\nand more", "a cat Negative prompt: dogs\nand more"),
        ("Negative prompt: dogs", "\u200bNegative prompt: dogs"),
        ("a cat, Negative prompt: dogs", "a cat, Negative prompt: dogs"),
    ],
)
def test_a_line_that_looks_like_the_negative_prompt_stays_in_its_prompt(prompt: str, read: str) -> None:
    assert read_back(written(prompt=prompt))["Prompt"] == read
    assert read_back(written(prompt=prompt, negative_prompt="blurred"))["Negative prompt"] == "blurred"
    assert "dogs" in read_back(written(negative_prompt=prompt))["Negative prompt"]
    assert read_back(written(negative_prompt=prompt))["Prompt"] == "a cat"


@given(st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=60))
def test_parameters_survive_any_prompt(prompt: str) -> None:
    found = read_back(written(prompt=f"x{prompt}", negative_prompt=f"y{prompt}"))

    assert found["Steps"] == "20"
    assert found["Size"] == "64x32"
    assert found["Prompt"].startswith("x")
    assert found["Negative prompt"].startswith("y")


def test_a_lora_that_the_prompt_names_already_is_not_named_twice(tmp_path: Path) -> None:
    assert read_back(written(prompt="a <lora:ink:1> cat", loras=[lora(tmp_path)]))["Prompt"] == "a <lora:ink:1> cat"


def test_names_of_loras_are_written_as_automatic1111_can_read_them(tmp_path: Path) -> None:
    loras = [lora(tmp_path, name, 1.0) for name in ("add detail (v2.0)", "a, b", "v1:beta", "<x>")]

    found = read_back(written(loras=loras))

    assert found["Prompt"] == "a cat <lora:add detail (v2.0):1> <lora:a, b:1>"
    names = [entry.rpartition(": ")[0] for entry in found["Lora hashes"].split(", ")]
    assert names == ["add detail (v2.0)", "a b", "v1beta", "<x>"]


@pytest.mark.parametrize(
    ("scheduler", "settings", "sampler", "schedule"),
    [
        ("EulerAncestralDiscreteScheduler", {"use_karras_sigmas": True}, "Euler a", None),
        ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}, "DPM++ 2M", "Karras"),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, "DPM++ 2M SDE", None),
        ("EulerDiscreteScheduler", {"use_exponential_sigmas": True}, "Euler", "Exponential"),
        ("UniPCMultistepScheduler", {"use_beta_sigmas": True}, "UniPC", "Beta"),
        ("PNDMScheduler", {}, "PLMS", None),
        ("FlowMatchEulerDiscreteScheduler", {}, "Euler", None),
        ("LCMScheduler", {}, "LCM", None),
        ("TCDScheduler", {}, "TCDScheduler", None),
    ],
)
def test_samplers_have_automatic1111s_names(
    scheduler: str, settings: dict[str, object], sampler: str, schedule: str | None
) -> None:
    assert sampler_of(scheduler, settings) == (sampler, schedule)


def test_the_type_of_schedule_is_read_from_the_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler/scheduler_config.json").write_text('{"use_karras_sigmas": true}')

    found = read_back(written("DPMSolverMultistepScheduler", checkpoint=str(tmp_path)))

    assert (found["Sampler"], found["Schedule type"]) == ("DPM++ 2M", "Karras")
    assert "Model hash" not in found


def test_a_checkpoint_is_hashed_once_and_aside(tmp_path: Path) -> None:
    (tmp_path / "sd.safetensors").write_bytes(b"weights")
    started: list[Callable[[], None]] = []
    hashes = FileHashes(started.append)
    wanted = row(checkpoint=str(tmp_path / "sd.safetensors"))

    first = [file_metadata(wanted, index, "PNDMScheduler", hashes).parameters for index in range(3)]
    started.pop()()
    then = read_back(file_metadata(wanted, 0, "PNDMScheduler", hashes).parameters)

    assert not any("Model hash" in text for text in first)
    assert started == []
    assert then["Model hash"] == hashlib.sha256(b"weights").hexdigest()[:10]


def test_the_hash_of_a_lora_leaves_out_the_header_and_prefers_the_trainers_own(tmp_path: Path) -> None:
    own = {"sshs_model_hash": "ab" * 32}
    header = json.dumps({"__metadata__": own}).encode()
    data = len(header).to_bytes(8, "little") + header

    hashes = FileHashes()

    assert hashes.lora(Path(lora(tmp_path, "ink")["path"])) == hashlib.sha256(bytes(128)).hexdigest()[:12]
    assert hashes.lora(Path(lora(tmp_path, "own", data=data)["path"])) == "ab" * 6


def test_a_lora_that_was_changed_since_has_no_hash(tmp_path: Path) -> None:
    entry = lora(tmp_path)
    os.utime(entry["path"], ns=(1, 1))

    assert "Lora hashes" not in written(loras=[entry])
    (tmp_path / "ink.safetensors").unlink()
    assert "Lora hashes" not in written(loras=[entry])


def test_outputs_of_one_job_hash_a_lora_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry, hashes, found = lora(tmp_path), FileHashes(), list[str | None]()
    threads = [threading.Thread(target=lambda: found.append(hashes.lora(Path(entry["path"])))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    (tmp_path / "ink.safetensors").write_bytes(b"not read again" * 10)
    os.truncate(entry["path"], len(safetensors_bytes(TENSORS)))
    os.utime(entry["path"], ns=(entry["stamp"], entry["stamp"]))

    assert len(set(found)) == 1
    assert hashes.lora(Path(entry["path"])) == found[0]


def test_the_json_has_the_hashes_too(tmp_path: Path) -> None:
    found = json.loads(file_metadata(row(loras=[lora(tmp_path)]), 0, "PNDMScheduler", FileHashes()).json)

    assert found["loras"] == [{"name": "ink", "weight": 0.8, "hash": hashlib.sha256(bytes(128)).hexdigest()[:12]}]
    assert found["scheduler"] == "PNDMScheduler"
