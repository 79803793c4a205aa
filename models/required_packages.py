"""Names the packages that a checkpoint needs besides ours, before it is loaded: `pip install` is the whole remedy.

Any thread; no torch. The libraries import such packages late, and fail with texts that name a class or nothing. What
needs which package is read from the checkpoint's configs and from the source of the libraries.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from models.errors import BadModel
from models.files.json_files import read_config
from models.files.leftovers import files_in
from models.files.model_index import components
from models.installed_libraries import package_folder

PIP_NAMES = {  # module or the libraries' own name of a package → what pip installs; others are called alike
    "bitsandbytes": "'agentname[bitsandbytes]'", "torchao": "'agentname[torchao]'",
    "optimum.quanto": "'agentname[quanto]'", "torchvision": "'agentname[vision]'",
    "google.protobuf": "protobuf", "compressed_tensors": "compressed-tensors", "auto_round": "auto-round",
    "fast_hadamard_transform": "fast-hadamard-transform", "flute": "flute-kernel", "modelopt": "nvidia-modelopt",
    "fbgemm_gpu": "fbgemm-gpu", "quark": "amd-quark", "note_seq": "note-seq", "cv2": "opencv-python",
}  # fmt: skip
MODULES = {  # the libraries' name of a package → its module
    "opencv": "cv2", "quanto": "optimum.quanto", "optimum_quanto": "optimum.quanto", "protobuf": "google.protobuf",
    "nvidia_modelopt": "modelopt",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Quantizer:
    """What the weights of a quantization method need."""

    modules: tuple[str, ...] = ()
    needs_cuda: bool = False


_BNB, _QUANTO, _TORCHAO = Quantizer(("bitsandbytes",)), Quantizer(("optimum.quanto",)), Quantizer(("torchao",))
_AUTO_ROUND, _PLAIN = Quantizer(("auto_round",)), Quantizer()
QUANTIZERS: Mapping[str, Mapping[str, Quantizer]] = {  # the `validate_environment` of the libraries' quantizers
    "diffusers": {
        "bitsandbytes": Quantizer(("bitsandbytes",), needs_cuda=True), "torchao": _TORCHAO, "quanto": _QUANTO,
        "gguf": Quantizer(("gguf",)), "modelopt": Quantizer(("modelopt",)), "auto-round": _AUTO_ROUND,
        "nunchaku_lite": Quantizer(("kernels",), needs_cuda=True), "sdnq": Quantizer(("sdnq",)), "bfl": _PLAIN,
    },
    "transformers": {
        "bitsandbytes": _BNB, "torchao": _TORCHAO, "quanto": _QUANTO, "auto-round": _AUTO_ROUND,
        "gptq": Quantizer(("optimum", "gptqmodel")), "awq": Quantizer(("gptqmodel",)), "aqlm": Quantizer(("aqlm",)),
        "compressed-tensors": Quantizer(("compressed_tensors",)), "quark": Quantizer(("quark",)),
        "fp8": _PLAIN, "mxfp4": _PLAIN, "mxfp8": _PLAIN, "nvfp4": _PLAIN, "bitnet": _PLAIN, "hqq": _PLAIN,
        "fbgemm_fp8": Quantizer(("fbgemm_gpu",), needs_cuda=True), "eetq": Quantizer(("kernels",), needs_cuda=True),
        "higgs": Quantizer(("flute", "fast_hadamard_transform"), needs_cuda=True), "sinq": Quantizer(("sinq",)),
        "fp_quant": Quantizer(("fp_quant",), needs_cuda=True), "vptq": Quantizer(("vptq",), needs_cuda=True),
        "spqr": Quantizer(("spqr_quant",), needs_cuda=True), "gguf": Quantizer(("gguf",)),
    },
}  # fmt: skip


def check_packages(folder: Path, *, on_cpu: bool) -> None:
    """Raises `BadModel` that names a package which is not installed, or a part that only a CUDA device can run.

    folder: of a pipeline or a language model, whose files are checked already. on_cpu: it will be loaded on the CPU.
    """
    index = folder / "model_index.json"
    if not index.is_file():
        _check_quantization("the model", folder, "transformers", on_cpu)
        _require("the tokenizer", _of_vocabulary(folder))
        return
    model_index = read_config(index)
    class_name = str(model_index.get("_class_name"))
    _require(class_name, _stand_ins().get(class_name, ()))
    for name, (_, cls) in components(model_index).items():
        part = folder / name
        _require(f"{name} ({cls})", _of_class(cls, part))
        config = _config(part / "config.json")
        _check_quantization(name, part, "diffusers" if "_class_name" in config else "transformers", on_cpu)


def how_to_install(modules: Iterable[str]) -> str:
    """Returns "scipy, which is not installed: pip install scipy" for the names that the libraries use."""
    found = [MODULES.get(module, module) for module in modules]
    names = [PIP_NAMES.get(module, module) for module in found]
    is_are = "is" if len(names) == 1 else "are"
    shown = " and ".join(module.replace("google.", "") for module in found)
    return f"{shown}, which {is_are} not installed: pip install {' '.join(names)}"


def is_installed(module: str) -> bool:
    try:
        return find_spec(MODULES.get(module, module)) is not None
    except ModuleNotFoundError:  # the parent package is missing
        return False


def named_in(text: str) -> str | None:
    """Returns the package that an ImportError of a library asks for, None when it names none that is known."""
    known = {*PIP_NAMES, *MODULES, "scipy", "torchsde", "sentencepiece", "tiktoken", "ftfy", "gguf", "gptqmodel",
             "optimum", "kernels", "sdnq", "timm"}  # fmt: skip
    words = set(re.findall(r"[a-z_][\w.-]*", text.lower()))
    return next((name for name in sorted(known) if name in words and not is_installed(name)), None)


def _require(what: str, modules: Iterable[str]) -> None:
    if missing := [module for module in modules if not is_installed(module)]:
        raise BadModel(f"{what} needs {how_to_install(missing)}")


def _check_quantization(what: str, folder: Path, library: str, on_cpu: bool) -> None:
    config = _config(folder / "config.json")
    quantization = config.get("quantization_config") or config.get("compression_config")
    if not isinstance(quantization, dict):
        return
    method = str(quantization.get("quant_method", ""))
    if quantization.get("load_in_4bit") or quantization.get("load_in_8bit"):
        method = "bitsandbytes"  # configs of older versions name no method
    method = method.removesuffix("_4bit").removesuffix("_8bit")
    quantizer = QUANTIZERS[library].get(method)
    if quantizer is None:
        raise BadModel(f"{what} is quantized by the method {method[:40] or '(none)'}, which {library} does not read")
    _require(f"{what} is quantized ({method}) and", quantizer.modules)
    if quantizer.needs_cuda and on_cpu:
        raise BadModel(f"{what} is quantized ({method}), which needs a CUDA device")


def _of_class(cls: str, part: Path) -> Iterator[str]:
    yield from _stand_ins().get(cls, ())
    if cls.endswith("Scheduler") and _config(part / "scheduler_config.json").get("use_beta_sigmas"):
        yield "scipy"
    if cls.endswith("ImageProcessorFast") or (cls.endswith("Processor") and cls in _processors_of_video()):
        yield "torchvision"
    if "Tokenizer" in cls or cls.endswith("Processor"):
        yield from _of_vocabulary(part)


def _of_vocabulary(folder: Path) -> Iterator[str]:
    """Yields what converts a vocabulary that has no tokenizer.json."""
    if (folder / "tokenizer.json").is_file():
        return
    if files_in(folder, "*.tiktoken"):
        yield "tiktoken"
    elif files_in(folder, "*.model"):
        yield from ("sentencepiece", "protobuf")


def _config(path: Path) -> Mapping[str, object]:
    return read_config(path) if path.is_file() else {}


@lru_cache(maxsize=1)
def _stand_ins() -> Mapping[str, tuple[str, ...]]:
    """Returns the packages of each class that diffusers replaces by a stand-in while one of them is not installed."""
    found: dict[str, tuple[str, ...]] = {}
    pattern = re.compile(r"^class (\w+)\(metaclass=DummyObject\):\n    _backends = \[(.*?)\]", re.MULTILINE)
    for path in (package_folder("diffusers") / "utils").glob("dummy_*.py"):
        for cls, packages in pattern.findall(path.read_text(encoding="utf-8")):
            found[cls] = tuple(re.findall(r"\w+", packages))
    return found


@lru_cache(maxsize=1)
def _processors_of_video() -> frozenset[str]:
    """Returns the processors of transformers that need torchvision, because they could also read video."""
    found: set[str] = set()
    for path in (package_folder("transformers") / "models").glob("*/processing_*.py"):
        text = path.read_text(encoding="utf-8")
        if "video_processor=None" in text or 'requires(backends=("torchvision"' in text:
            found |= set(re.findall(r"^class (\w+Processor)\(", text, re.MULTILINE))
    return frozenset(found)
