"""Loading a model or tokenizer by name: a Hugging Face folder, a hub name, or an embedded `hone/...` model."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging
from transformers.utils.logging import disable_progress_bar

from hone import embedded
from hone.chat_template import turn_ends
from hone.config.paths import check_local
from hone.errors import ConfigError, ModelError
from hone.model.attention import use_grouped_sdpa
from hone.model.dropout import recomputing
from hone.model.load_errors import UNREADABLE, one_line
from hone.model.scalar_head import check_head, has_scalar_head, head_name

TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json", "config.json")
WEIGHT_FILES = ("*.safetensors", "pytorch_model*.bin")


def resolve(name: str, *, needs: tuple[str, ...] = ("config.json",)) -> str:
    """The folder of an embedded model, a local folder that has one of the files it `needs`, or a hub name.

    Raises ModelError for what looks like a path and does not exist.
    """
    check_local(name, "model")
    if name in embedded.MODELS:
        return str(embedded.MODELS[name])
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") > 1
    path = Path(name).expanduser()
    if path.is_dir():
        if not any((path / file).is_file() for file in needs):
            if (path / "config.yaml").is_file():
                raise ModelError(f"{name} is a run's folder: `hone convert {name} OUT` makes a model of it")
            raise ModelError(
                f"{name} is a folder without {needs[0]}, so not what Hugging Face saves. "
                "Of a run of Hone, name the run's folder or one of its steps"
            )
        return str(path)
    if looks_like_path:
        raise ModelError(f"model folder {name} does not exist")
    return name


def load_model(
    name: str,
    *,
    overrides: Mapping[str, Any] | None = None,
    seed: int = 0,
    activation_checkpointing: bool = False,
    scalar: bool = False,
    fresh_head: bool = True,
    quantization: Any = None,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """A causal language model with fp32 weights (`policy.precision` is autocast's).

    `overrides` change the model's config. An embedded model without weights gets random ones from `seed`. `scalar`:
    with a scalar head (`hone.model.scalar_head`), the checkpoint's or, if it has none and `fresh_head`, a new one
    from `seed`. `quantization`: see `hone.model.quantized`. `trust_remote_code`: run the code in the model's folder,
    where transformers has none for it. From pickled weights only tensors are read."""
    source = resolve(name)
    disable_progress_bar()  # Hone's own progress line is the only one
    try:
        config = wanted_config(
            name, overrides or {}, scalar=scalar, fresh_head=fresh_head, trust_remote_code=trust_remote_code
        )
        if Path(source).is_dir() and not any(any(Path(source).glob(kind)) for kind in WEIGHT_FILES):
            if name not in embedded.MODELS:
                raise ModelError(f"{name} has a config.json but no weights (*.safetensors)")
            if quantization is not None:
                raise ModelError(f"{name} has no weights to hold in 4 bits: name a model that has")
            model = _random(config, seed, scalar)  # an embedded model: no code comes with it
        else:
            # On the CPU: the engine moves the model to its device.
            placed = {"quantization_config": quantization, "device_map": {"": "cpu"}}
            how = {} if quantization is None else placed
            model = _pretrained(name, source, config, seed, scalar, how, trust_remote_code)
    except UNREADABLE as error:
        raise ModelError(f"cannot load model {name}: {one_line(error)}") from error
    if (spoilt := not_finite(model.state_dict().items())) is not None:
        raise ModelError(
            f"weight {spoilt} of {name} holds nan or infinity: load it from its source again, or convert an earlier "
            "checkpoint"
        )
    _set_up(model, activation_checkpointing)
    return model


def empty_model(
    name: str,
    *,
    overrides: Mapping[str, Any] | None = None,
    activation_checkpointing: bool = False,
    dtype: torch.dtype = torch.float32,
    scalar: bool = False,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """As `load_model`, on the meta device: no weights are read or allocated."""
    config = wanted_config(name, overrides or {}, scalar=scalar, trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        model = auto_class(scalar).from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)
    if not scalar:
        with contextlib.suppress(OSError):  # a model need not have one
            model.generation_config = GenerationConfig.from_pretrained(resolve(name))
    _set_up(model, activation_checkpointing)
    return model


def auto_class(scalar: bool) -> Any:
    """The auto class of `transformers` for a model with this head."""
    return AutoModelForSequenceClassification if scalar else AutoModelForCausalLM


def wanted_config(
    name: str,
    overrides: Mapping[str, Any],
    *,
    scalar: bool = False,
    fresh_head: bool = True,
    trust_remote_code: bool = False,
) -> PreTrainedConfig:
    """The config of a model with this head. Raises ModelError if the checkpoint has another one."""
    config = configured(resolve(name), overrides, trust_remote_code=trust_remote_code)
    check_head(name, config, scalar=scalar, fresh=fresh_head)
    if scalar:
        config.num_labels = 1
    return config


def _set_up(model: PreTrainedModel, activation_checkpointing: bool) -> None:
    # `transformers` reads the architecture from a checkpoint's config.
    model.config.architectures = [type(model).__name__]
    if activation_checkpointing:
        model.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs={"use_reentrant": False, "context_fn": recomputing}
        )
    use_grouped_sdpa(model)
    model.config.use_cache = False


def name_of(model: PreTrainedModel) -> str:
    """A model's name in messages: the folder or name that it was loaded from, else its architecture."""
    return model.config._name_or_path or f"the {model.config.model_type} model"


def not_finite(weights: Iterable[tuple[str, torch.Tensor]]) -> str | None:
    """The name of the first weight that holds nan or infinity. Sums are checked first, for speed."""
    for name, weight in weights:
        if not torch.isfinite(weight.sum()) and not torch.isfinite(weight).all():
            return name
    return None


def configured(
    source: str, overrides: Mapping[str, Any], *, trust_remote_code: bool = False
) -> PreTrainedConfig:
    """The model's config with the overrides. Raises ConfigError for unknown ones, which `transformers` would ignore."""
    read = partial(AutoConfig.from_pretrained, source, trust_remote_code=trust_remote_code)
    config = read()
    known = config.to_dict()
    for key in overrides:
        if key not in known and not hasattr(config, key):
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(
                f"policy.hf_config_overrides.{key}: {config.model_type} models have no such setting{hint}"
            )
    return read(**overrides) if overrides else config


def _pretrained(
    name: str,
    source: str,
    config: PreTrainedConfig,
    seed: int,
    scalar: bool,
    how: Mapping[str, Any],
    trust_remote_code: bool,
) -> PreTrainedModel:
    """Load all weights from the files. Raises ModelError for weights that are missing or have another shape, which
    would be random. A new scalar head is initialised with `seed`."""
    fresh = scalar and not has_scalar_head(config)
    with _quiet(fresh), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        loaded: Any = auto_class(scalar).from_pretrained(
            source,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes="quantization_config" not in how,
            trust_remote_code=trust_remote_code,
            **how,
        )
    model, report = loaded
    if report["mismatched_keys"]:
        weight, stored, wanted = sorted(report["mismatched_keys"])[0]
        raise ModelError(
            f"{name}: {weight} is {list(stored)} in the weight files and {list(wanted)} by the config: "
            "correct config.json or policy.hf_config_overrides"
        )
    own = f"{head_name(model)}." if fresh else "\0"
    if missing := sorted(key for key in report["missing_keys"] if not key.startswith(own)):
        raise ModelError(
            f"{name} lacks {len(missing)} weights of {type(model).__name__}, such as {missing[0]}: "
            "its config.json and its weight files do not belong together"
        )
    return model


@contextlib.contextmanager
def _quiet(wanted: bool) -> Iterator[None]:
    """Suppress the library's warning about a new head, where it is `wanted`."""
    before = logging.get_verbosity()
    if wanted:
        logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _random(config: Any, seed: int, scalar: bool) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return auto_class(scalar).from_config(config, dtype=torch.float32, trust_remote_code=False)


PASS_THROUGH = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def load_tokenizer(
    name: str, *, chat_template: str | None = "default", trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """A tokenizer with a padding token.

    `chat_template`: "default" keeps its own; None concatenates contents; else the name of one of its templates, a Jinja
    template, or the path of a file with one.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            resolve(name, needs=TOKENIZER_FILES), trust_remote_code=trust_remote_code
        )
    except Exception as error:  # the tokenizers library raises a bare Exception for a file it cannot read
        raise ModelError(f"cannot load tokenizer {name}: {one_line(error)}") from error
    if chat_template is None:
        tokenizer.chat_template = PASS_THROUGH
    elif chat_template != "default":
        tokenizer.chat_template = _template(chat_template, tokenizer.chat_template)
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ModelError(
                f"tokenizer {name} has neither a pad nor an eos token: add one to tokenizer_config.json"
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _template(given: str, own: Any) -> str:
    """A string with a brace is a Jinja template; any other is the name of one of the tokenizer's templates, or a
    path."""
    if "{" in given:
        return given
    if isinstance(own, Mapping) and given in own:
        return own[given]
    try:
        return Path(given).read_text()
    except OSError as error:
        raise ConfigError(
            f"policy.tokenizer.chat_template={given} is neither a Jinja template nor a file that can be read"
            + (f"; the tokenizer's own are called {', '.join(own)}" if isinstance(own, Mapping) else "")
        ) from error


def stop_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """All tokens that end a completion: the end-of-sequence tokens of generation config, model config and tokenizer,
    and those that end an assistant turn in the tokenizer's chat template."""
    return _stop_tokens(tokenizer, model.generation_config, model.config)


def stop_tokens_of(
    source: str, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase
) -> tuple[int, ...]:
    """`stop_tokens` of a model that is not loaded: of its folder or hub name, and its config."""
    with contextlib.suppress(OSError):  # it has no generation config
        return _stop_tokens(tokenizer, GenerationConfig.from_pretrained(source), config)
    return _stop_tokens(tokenizer, config)


def _stop_tokens(tokenizer: PreTrainedTokenizerBase, *configs: Any) -> tuple[int, ...]:
    found: set[int] = set(turn_ends(tokenizer))
    for owner in (*configs, tokenizer):
        value = getattr(owner, "eos_token_id", None)
        found.update([value] if isinstance(value, int) else (value or ()))
    return tuple(sorted(found))


def context_length(model: PreTrainedModel) -> int | None:
    """The model's maximum number of positions; None if its config does not say."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)
