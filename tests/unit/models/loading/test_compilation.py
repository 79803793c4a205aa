"""Which denoisers have their blocks compiled, and what is said where they have not."""

from __future__ import annotations

import pytest

from models.loading.compilation import denoisers_to_compile
from models.spec import LoadOptions, ModelSpec
from tests.support.lanes.stock_families import FAMILIES


@pytest.mark.parametrize(
    ("load", "device", "offload", "reason"),
    [
        (LoadOptions(), "cpu", False, None),
        (LoadOptions(compile=False), "cuda:0", False, None),
        (LoadOptions(), "cuda:0", True, "copied to the device block by block"),
        (LoadOptions(quantization="fp8-layerwise"), "cuda:0", False, "fp8-layerwise casts"),
    ],
)
def test_blocks_that_are_not_compiled_have_a_reason_unless_nobody_asked(
    load: LoadOptions, device: str, offload: bool, reason: str | None
) -> None:
    spec = ModelSpec(name="m", type="image", path=None, source="m", load=load)

    denoisers, notes = denoisers_to_compile(FAMILIES["flux"].build(), spec, device, offload)

    assert denoisers == []
    assert len(notes) == (reason is not None)
    assert all(str(reason) in note for note in notes)


def test_blocks_are_compiled_by_default_on_cuda_where_the_denoiser_names_them() -> None:
    spec = ModelSpec(name="m", type="image", path=None, source="m")
    flux, sd3 = FAMILIES["flux"].build(), FAMILIES["sd3"].build()

    assert denoisers_to_compile(flux, spec, "cuda:0", False) == ([flux.transformer], [])
    denoisers, (note,) = denoisers_to_compile(sd3, spec, "cuda:0", False)
    assert denoisers == []
    assert "names no repeated blocks" in note
