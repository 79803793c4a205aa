"""Reads the configs of sentence-transformers: pooling, the layers after it, prompts. Any thread; no torch.

Only the modules that are known here are served: their order, modes and activations are names from fixed lists, and no
class is looked up by a name in a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from models.checkpoint.component_configs import Config, positive_int
from models.embedding_layout import DenseLayout, EmbeddingLayout
from models.errors import BadModel, Incomplete
from models.files.json_files import read_config
from models.files.sentence_modules import MODULES, SentenceModule, sentence_modules

MODEL_CONFIG = "config_sentence_transformers.json"
SENTENCE_CONFIG = "sentence_bert_config.json"
KINDS = ("Transformer", "Pooling", "Dense", "Normalize")
# Setting of older configs → mode. Several are put side by side in this order.
MODE_SETTINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "SiLU", "Sigmoid", "LeakyReLU", "ELU", "Mish", "Softplus")
MAX_DIMENSIONS = 1 << 16
MAX_PROMPTS, MAX_PROMPT_CHARS = 100, 10_000


def read_sentence_layout(folder: Path, hidden_size: int) -> EmbeddingLayout:
    """hidden_size: of the language model. Raises `BadModel` for modules that are not known, or not in a usual order."""
    modules = sentence_modules(folder)
    kinds = [module.kind for module in modules]
    for kind in kinds:
        if kind not in KINDS:
            raise BadModel(f"{MODULES} has a module of the kind {kind}; served are {', '.join(KINDS)}")
    n_dense = kinds.count("Dense")
    if kinds not in ([*KINDS[:2], *["Dense"] * n_dense], [*KINDS[:2], *["Dense"] * n_dense, "Normalize"]):
        raise BadModel(f"{MODULES} has its modules in another order than {', '.join(KINDS)}")
    if modules[0].folder:
        raise BadModel(f"{MODULES} keeps the Transformer in a folder of its own ({modules[0].folder[:80]})")
    pooling = _config(folder, modules[1])
    modes = _modes(pooling)
    dense = tuple(_dense(folder, module) for module in modules if module.kind == "Dense")
    width = len(modes) * hidden_size
    for layer in dense:
        if layer.n_inputs != width:
            raise BadModel(f"{layer.folder} takes {layer.n_inputs} values, it gets {width}")
        width = layer.n_outputs
    model = _optional(folder / MODEL_CONFIG)
    if model.get("model_type", "SentenceTransformer") != "SentenceTransformer":
        raise BadModel(f"is a {str(model['model_type'])[:80]} of sentence-transformers, which gives no single vectors")
    prompts = _prompts(model)
    default = model.get("default_prompt_name")
    if default is not None and default not in prompts:
        raise BadModel(f"{MODEL_CONFIG}: its default_prompt_name is none of its prompts")
    return EmbeddingLayout(
        dimensions=width,
        pooling=modes,
        pools_prompt=pooling.get("include_prompt") is not False,
        dense=dense,
        normalizes=kinds[-1] == "Normalize",
        prompts=prompts,
        default_prompt=default if isinstance(default, str) else None,
        lower_cases=_optional(folder / SENTENCE_CONFIG).get("do_lower_case") is True,
    )


def _config(folder: Path, module: SentenceModule) -> Config:
    path = folder / module.folder / "config.json"
    if not module.folder or not path.is_file():
        missing = f"{module.folder or module.kind}: config.json"
        raise Incomplete(f"has not all of its files: {missing}", missing=(missing,))
    return read_config(path)


def _optional(path: Path) -> Config:
    return read_config(path) if path.is_file() else {}


def _modes(config: Config) -> tuple[str, ...]:
    named = config.get("pooling_mode")  # of newer configs
    if named is None:
        return tuple(mode for key, mode in MODE_SETTINGS.items() if config.get(key) is True) or ("mean",)
    modes: Sequence[object] = named if isinstance(named, list) and named else [named]
    if unknown := [mode for mode in modes if mode not in MODE_SETTINGS.values()]:
        raise BadModel(f"its pooling_mode {str(unknown[0])[:40]} is none of {', '.join(MODE_SETTINGS.values())}")
    return tuple(str(mode) for mode in modes)


def _dense(folder: Path, module: SentenceModule) -> DenseLayout:
    config, name = _config(folder, module), module.folder
    n_inputs, n_outputs = positive_int(config, "in_features"), positive_int(config, "out_features")
    if not 0 < n_inputs <= MAX_DIMENSIONS or not 0 < n_outputs <= MAX_DIMENSIONS:
        raise BadModel(f"{name}: in_features and out_features must be from 1 to {MAX_DIMENSIONS}")
    activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    kind = activation.rpartition(".")[2]
    if not activation.startswith("torch.nn.") or kind not in ACTIVATIONS:
        raise BadModel(f"{name}: its activation_function is none of {', '.join(ACTIVATIONS)} of torch.nn")
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, "sentence_embedding"):
            raise BadModel(f"{name}: its {key} is not sentence_embedding")
    if config.get("use_residual"):
        raise BadModel(f"{name}: use_residual is not served")
    return DenseLayout(name, n_inputs, n_outputs, config.get("bias") is not False, kind)


def _prompts(config: Config) -> dict[str, str]:
    prompts = config.get("prompts") or {}
    if not isinstance(prompts, dict) or len(prompts) > MAX_PROMPTS:
        raise BadModel(f"{MODEL_CONFIG}: prompts are no object of at most {MAX_PROMPTS} texts")
    found = {str(name): "" if text is None else text for name, text in prompts.items()}
    if not all(isinstance(text, str) and len(text) <= MAX_PROMPT_CHARS for text in found.values()):
        raise BadModel(f"{MODEL_CONFIG}: a prompt is no text of at most {MAX_PROMPT_CHARS} characters")
    return found
