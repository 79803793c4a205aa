"""Damaging checkpoints: a seed repeats a case, sound files stay as they are, and nothing from nowhere is overlooked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from benchmarks.damage_copy import CHECKPOINT
from benchmarks.damage_families import SOUND, Sound, unlike_any_other
from benchmarks.damage_nowhere import from_nowhere, unread
from benchmarks.damage_sides import Opened, Refused
from benchmarks.damage_verdict import Case, Reference, damage, refused

CHATS = [sound for sound in SOUND if sound.family is None]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("sound", CHATS, ids=lambda sound: sound.name)
def test_every_edit_changes_a_copy_in_the_same_way_for_a_seed_and_never_the_sound_files(
    sound: Sound, tmp_path: Path
) -> None:
    sound_dir = tmp_path / sound.name
    (sound_dir / CHECKPOINT).mkdir(parents=True)
    sound.write(sound_dir / CHECKPOINT)
    before = contents(sound_dir)
    for part, edits in sound.edits().items():
        for number, edit in enumerate(edits):
            case = Case(number, sound.name, part, edit.__name__)
            try:
                _, name, what = damage(case, 1, sound_dir, tmp_path / f"{part}-{number}-a")
            except ValueError:
                continue  # an edit of pipelines alone
            assert name == edit.__name__
            assert damage(case, 1, sound_dir, tmp_path / f"{part}-{number}-b")[2] == what
            changed = contents(tmp_path / f"{part}-{number}-a")
            assert changed != before, (name, what)
            assert changed == contents(tmp_path / f"{part}-{number}-b"), (name, what)
    assert contents(sound_dir) == before


def test_parameters_are_from_nowhere_when_their_values_are_in_no_file_under_any_name(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.LayerNorm(16))
    unlike_any_other(module)
    saved = {f"renamed.{name}": tensor.clone() for name, tensor in module.state_dict().items()}
    save_file(saved, tmp_path / "model.safetensors")
    files = [tmp_path / "model.safetensors"]

    assert from_nowhere({"part": module}, files) == []
    module[0].weight = torch.nn.Parameter(module[0].weight.T)  # transposed on the way: still read
    assert from_nowhere({"part": module}, files) == []

    module[1] = torch.nn.LayerNorm(16)  # ones and zeros, as the library initializes it
    module[0].weight = torch.nn.Parameter(torch.randn(16, 16))
    module[0].bias = torch.nn.Parameter(torch.empty(16, device="meta"))
    assert from_nowhere({"part": module}, files) == ["part.0.bias", "part.0.weight", "part.1.bias", "part.1.weight"]
    assert len(unread({"part": module}, files)) == 4


@pytest.mark.parametrize(
    ("message", "library", "verdict"),
    [
        ("unet lacks 1 tensor (conv_in.weight) that its config needs", Refused("KeyError"), "refused"),
        ("The model x failed to load: its files do not fit its pipeline.", Refused("KeyError"), "refused vaguely"),
        ("", Refused("KeyError"), "refused vaguely"),
        ("config.json is not valid JSON", Opened({}, "the same reply"), "too strict"),
        ("config.json is not valid JSON", Opened({}, "another reply"), "refused, library serves"),
        ("config.json is not valid JSON", Opened({}, np.full((1, 2, 2, 3), np.nan)), "refused"),
    ],
)
def test_a_refusal_is_judged_by_its_reason_and_by_what_the_library_does(
    message: str, library: Opened | Refused, verdict: str, tmp_path: Path
) -> None:
    assert refused(Refused(message), library, Reference("the same reply", frozenset()), tmp_path) == verdict


def test_a_refusal_that_shows_a_path_of_this_machine_is_a_failure(tmp_path: Path) -> None:
    ours = Refused(f"{tmp_path}/config.json is not valid JSON")

    assert refused(ours, Refused("KeyError"), Reference("a reply", frozenset()), tmp_path) == "leak"
