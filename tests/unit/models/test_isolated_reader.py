"""Whatever lies in a models folder refuses itself alone, read by a child with limits; what was read is remembered."""

from __future__ import annotations

import logging
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.catalogue import Catalogue
from models.reading.isolated_reader import IsolatedReader
from models.reading.outcome import readable
from tests.support.catalogues import NO_BUILTIN, open_catalogue
from tests.support.checkpoints import chat_folder, stable_diffusion_folder, write_json
from tests.support.hostile_files import KINDS, SLOW

COSTLY = (*SLOW, "template that grows", "many tensors")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IsolatedReader]:
    made = IsolatedReader(tmp_path_factory.mktemp("cache"), "float32", quick_s=(0.5, 5.0), wall_s=5.0)
    yield made
    made.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_each_kind_is_refused_or_served_and_the_sound_one_beside_it_is_served(
    tmp_path: Path, reader: IsolatedReader, kind: str
) -> None:
    chat_folder(tmp_path / "models/sound")
    for number in range(1 if kind in COSTLY else 3):
        KINDS[kind](random.Random(number), tmp_path / f"models/h{number}")

    catalogue = open_catalogue(tmp_path, reader=reader)

    assert "sound" in catalogue.names()
    assert catalogue.is_complete
    for refused in catalogue.refused:
        assert readable(refused.reason) == refused.reason
        assert str(tmp_path) not in refused.reason
        assert len(refused.reason) > 8
    shutil.rmtree(tmp_path, onerror=lambda remove, path, _: os.chmod(path, 0o700))


@pytest.mark.slow
def test_reading_by_a_child_finds_what_reading_here_finds(tmp_path: Path, reader: IsolatedReader) -> None:
    stable_diffusion_folder(tmp_path / "models/Sd")
    chat_folder(tmp_path / "models/chat")
    chat_folder(tmp_path / "models/without", template=None)
    chat_folder(tmp_path / "models/without2", template=None)
    (tmp_path / "models/notes.txt").write_text("no model")
    toml = (
        '[models.without]\nload.chat_template = "chatml"\n[models.sd]\naliases = ["x"]\n[models.gone]\nsource = "./a"\n'
    )

    here, there = open_catalogue(tmp_path, toml), open_catalogue(tmp_path, toml, reader=reader)

    assert there.specs() == here.specs()
    assert there.refused == here.refused
    assert {refused.name for refused in there.refused} == {"without2", "gone"}


@pytest.mark.slow
def test_a_model_that_is_still_being_read_keeps_no_other_from_being_served(
    tmp_path: Path, reader: IsolatedReader, caplog: pytest.LogCaptureFixture
) -> None:
    chat_folder(tmp_path / "models/sound")
    KINDS["template that loops"](random.Random(0), tmp_path / "models/slow")
    catalogue = open_catalogue(tmp_path, reader=reader, wait_s=0.3)
    while not catalogue.names():  # on a busy machine the sound one takes longer, too
        catalogue.apply(catalogue.compare(catalogue.read()))

    assert catalogue.names() == ["sound"]
    assert [refused.reason for refused in catalogue.refused] == ["is still being read"]
    assert not catalogue.is_complete
    with caplog.at_level(logging.WARNING):
        while not catalogue.is_complete:
            catalogue.apply(catalogue.compare(catalogue.read()))
        catalogue.apply(catalogue.compare(catalogue.read()))
    assert [refused.reason for refused in catalogue.refused] == ["reading its chat template takes too long"]
    assert [record.msg for record in caplog.records].count("model refused") == 1


class Counting(IsolatedReader):
    """Tells which models its children really read."""

    def open(self, tmp_path: Path) -> tuple[Catalogue, list[str]]:
        asked: list[str] = []
        keep = self._keep

        def kept(path: Path, stamps: dict[str, str] | None, outcome: object) -> None:
            asked.append(path.name)
            keep(path, stamps, outcome)

        self._keep = kept  # type: ignore[method-assign]
        catalogue = Catalogue.open(data_dir=tmp_path, cache_dir=tmp_path, builtin=NO_BUILTIN, reader=self)
        self.close()
        return catalogue, sorted(name for name in asked if name.startswith("m-"))


@pytest.mark.slow
def test_the_next_start_reads_only_what_has_changed(tmp_path: Path) -> None:
    for name in ("m-a", "m-b", "m-c"):
        chat_folder(tmp_path / "models" / name)
    write_json(tmp_path / "models/m-c/config.json", {"block_out_channels": "?"})
    memory = tmp_path / "read.json"

    first, read = Counting(tmp_path, "float32", memory).open(tmp_path)
    assert read == ["m-a", "m-b", "m-c"]
    second, read = Counting(tmp_path, "float32", memory).open(tmp_path)
    assert read == []
    assert (second.specs(), second.refused) == (first.specs(), first.refused)

    twin = chat_folder(tmp_path / "twin", max_position_embeddings=4096)
    for file in ("config.json", "model.safetensors"):  # the same sizes and times, another inode
        stat = (tmp_path / "models/m-b" / file).stat()
        os.replace(twin / file, tmp_path / "models/m-b" / file)
        os.utime(tmp_path / "models/m-b" / file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    third, read = Counting(tmp_path, "float32", memory).open(tmp_path)
    assert read == ["m-b"]
    assert third.get("m-b").limits.context_tokens == 4096

    memory.write_text('{"version": ')
    _, read = Counting(tmp_path, "float32", memory).open(tmp_path)
    assert read == ["m-a", "m-b", "m-c"]


def test_a_change_that_a_look_at_the_folders_finds_is_read(tmp_path: Path, reader: IsolatedReader) -> None:
    folder = chat_folder(tmp_path / "models/m")
    reader.states([tmp_path / "models"])
    catalogue = open_catalogue(tmp_path, reader=reader)
    catalogue.apply(catalogue.compare(catalogue.read()))
    chat_folder(folder, max_position_embeddings=4096)
    reader.states([tmp_path / "models"])
    catalogue.apply(catalogue.compare(catalogue.read()))

    assert catalogue.get("m").limits.context_tokens == 4096
