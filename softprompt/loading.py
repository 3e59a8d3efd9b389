"""Loading a checkpoint: what is broken is said in a sentence, and the last model stays."""

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate.utils.memory import clear_device_cache
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from softprompt import processes
from softprompt.cache import Cache, open_locally
from softprompt.checkpoints import Checkpoint
from softprompt.completeness import CONFIG_FILE, broken_json
from softprompt.errors import BadCheckpoint, BadStudy, SoftPromptError, in_short
from softprompt.fitness import check_fitness
from softprompt.host import fault_of_host
from softprompt.memory import does_not_fit, is_out_of_memory
from softprompt.models import LanguageModel
from softprompt.protocol import Resources
from softprompt.tokenizer import load_named_tokenizer, load_tokenizer

_NOT_TRAINED = re.compile(
    r"(attn|attention)\.(masked_)?bias$|(inv_freq|(cos|sin)_cached|causal_mask|freqs_cis|_extra_state)$"
)
"""Of weights that networks calculate, and some have saved: masks, and tables of positions."""
_last: dict[tuple[Checkpoint, Resources, str | None, Cache | None], LanguageModel] = {}
"""The one model that is kept, by what it was loaded with."""


def load_model(
    checkpoint: Checkpoint, resources: Resources, tokenizer: str | None = None, cache: Cache | None = None
) -> LanguageModel:
    """Read a checkpoint's safetensors into a frozen network. The last one loaded is kept, so that a checkpoint's
    benchmarks share it when they run in one process; it makes room before another is read.

    Args:
        tokenizer: where to read the tokenizer from, if not from the checkpoint: a folder, a URL or a name on the hub.
        cache: where to keep the copy of a remote checkpoint.

    Raises:
        BadCheckpoint: no usable weights, config or tokenizer; see the message.
        BadStudy: the tokenizer that is named cannot be read.
        OutOfMemory: the device cannot hold it.
        SoftPromptError: it cannot be read or copied; see `open_locally`.
    """
    key = checkpoint, resources, tokenizer, cache
    if key not in _last:
        _last.clear()
        clear_device_cache(garbage_collection=True)  # hooks hold their network in cycles
        try:
            _last[key] = _load(*key)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise does_not_fit(checkpoint.uri, str(error)) from error
    model = _last[key]
    if model.device.type == "cuda":  # for this thread: CUDA graphs and clocks go by the device that is current
        torch.cuda.set_device(model.device)
    return model


def _load(
    checkpoint: Checkpoint, resources: Resources, tokenizer_source: str | None, cache: Cache | None
) -> LanguageModel:
    uri, with_code = checkpoint.uri, resources.trust_remote_code
    device, is_spread = _device(resources), resources.devices_per_process > 1
    dtype = resources.dtype
    if dtype == "auto":
        dtype = "float32" if device.type == "cpu" else "bfloat16"
    with open_locally(checkpoint, cache, with_code=with_code) as folder, without_bars():
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=getattr(torch, dtype),
                use_safetensors=True,
                trust_remote_code=with_code,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused below, by name
                device_map="auto" if is_spread else None,
            )
            tokenizer = (
                load_named_tokenizer(tokenizer_source, cache, with_code=with_code)
                if tokenizer_source
                else load_tokenizer(folder, with_code=with_code)
            )
        except SoftPromptError:
            raise
        except Exception as error:  # transformers raises many kinds for broken files; each is one broken checkpoint
            if is_out_of_memory(error):
                raise
            raise (fault_of_host(error) or _unreadable(error, folder, uri, with_code)) from error
        if broken := broken_json(folder, "generation_config.json"):  # of which transformers makes nothing
            raise BadCheckpoint(f"{uri}/{broken} is half written or no JSON; upload it again.")
    network, loading = loaded
    _require_as_trained(network, loading, uri)
    network = network if is_spread else network.to(device)
    model = LanguageModel(network.eval().requires_grad_(False), tokenizer)
    _check(model, uri)
    check_fitness(model, uri)
    return model


def _unreadable(error: Exception, folder: Path, uri: str, with_code: bool) -> BadCheckpoint:
    """What is wrong with files that transformers could not load, as precisely as they show it."""
    if broken := broken_json(folder):
        return BadCheckpoint(f"{uri}/{broken} is half written or no JSON; upload it again.")
    if unknown := _unknown_architecture(folder, with_code):
        return BadCheckpoint(
            f"{uri} has the architecture {unknown!r}, which transformers {transformers.__version__} does not know; "
            "install a newer one or, if the checkpoint brings Python code of its own, let that run by "
            "--trust-remote-code (`trust_remote_code` in the study's [resources])."
        )
    reason = in_short(str(error).replace(str(folder), uri))
    return BadCheckpoint(
        f"{uri} cannot be loaded ({type(error).__name__}: {reason}); save config, weights and tokenizer again with "
        "save_pretrained."
    )


def _require_as_trained(network: Any, loading: dict[str, Any], uri: str) -> None:
    """Raise `BadCheckpoint` unless the network has all its weights, and no others, from the checkpoint."""
    if loading["mismatched_keys"]:
        name, found, expected = min(loading["mismatched_keys"])
        raise BadCheckpoint(
            f"{uri}: the weights {name} are {' x '.join(map(str, found))}, its config asks for "
            f"{' x '.join(map(str, expected))}; config and weights belong to two models, save both again."
        )
    if missing := sorted(loading["missing_keys"]):
        raise BadCheckpoint(
            f"{uri} lacks the weights {', '.join(missing[:3])}, which would be random; "
            + (_wrapped(missing[0], loading["unexpected_keys"]) or "save the checkpoint again in full.")
        )
    if unread := _unread(network, loading["unexpected_keys"]):
        raise BadCheckpoint(
            f"{uri} has the weights {', '.join(unread[:3])}, which {type(network).__name__} with its config does not "
            "read: another network than the trained one would be evaluated. Correct config.json, merge these weights "
            "into the others, or leave them out."
        )


def _unread(network: Any, unexpected: Iterable[str]) -> list[str]:
    """Weights of the network's layers, or of more layers than its config counts, that are left over. Those elsewhere
    may be: a reward head, a vision tower, layers that predict further tokens."""
    config, base = network.config.get_text_config(), network.base_model_prefix
    num_layers = getattr(config, "num_hidden_layers", 0)
    names = [n for n, m in network.named_modules() if isinstance(m, torch.nn.ModuleList) and len(m) == num_layers]
    places = "|".join(re.escape(place) for name in names for place in (name, name.removeprefix(f"{base}.")))
    further = range(num_layers, num_layers + (getattr(config, "num_nextn_predict_layers", None) or 0))
    found = ((name, re.match(rf"(?:{places})\.(\d+)\.", name)) for name in sorted(unexpected))
    return [name for name, layer in found if layer and int(layer[1]) not in further and not _NOT_TRAINED.search(name)]


def _wrapped(missing: str, unexpected: Iterable[str]) -> str:
    """What to do where a weight is there under the name that a wrapper gave it, as `torch.compile` does; else empty."""
    name = next((name for name in sorted(unexpected) if name.endswith(f".{missing}")), "")
    return name and f"it has {name} in its place, a wrapper's name for it: save the weights of the model inside."


@contextmanager
def without_bars() -> Iterator[None]:
    """None of the bars of transformers, which lie across ours and litter a worker's log."""
    were_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if were_on:
            logging.enable_progress_bar()


def _unknown_architecture(folder: Path, with_code: bool) -> str | None:
    """The model type that a checkpoint's config names, if neither transformers nor code of its own has the model."""
    config = json.loads((folder / CONFIG_FILE).read_bytes())
    if not isinstance(config, dict) or (with_code and "auto_map" in config):
        return None
    name = config.get("model_type")
    return name if name and name not in transformers.CONFIG_MAPPING else None


def _device(resources: Resources) -> torch.device:
    is_shared = bool(resources.devices) and resources.device == "auto"
    name = "cuda" if is_shared else resources.device  # or jobs that share GPUs would run on a CPU unseen
    try:
        device = processes.default_device() if name in ("auto", "cuda") else torch.device(name)
    except RuntimeError as error:
        raise BadStudy(f"device is {name!r}; expected auto, cpu, cuda or cuda:NUMBER.") from error
    is_there = device.type == "cuda" and (device.index or 0) < torch.cuda.device_count()
    if name.startswith("cuda") and not is_there:
        found = f"devices are {', '.join(resources.devices)}" if is_shared else f"device is {name!r}"
        remedy = "set device to cpu" if is_shared else "set it to auto or cpu"
        raise BadStudy(f"{found}, but PyTorch finds no such GPU; {remedy}, or install PyTorch for CUDA.")
    return device


def _check(model: LanguageModel, uri: str) -> None:
    num_rows = model.network.get_input_embeddings().weight.shape[0]
    needed = {i for i in model.tokenizer.get_vocab().values() if not model.marks.get(i)}
    num_tokens = 1 + max(needed)  # some leave numbers out
    if num_tokens > num_rows:
        raise BadCheckpoint(
            f"{uri}: the tokenizer has {num_tokens} tokens, the embedding only {num_rows} rows; "
            "the tokenizer belongs to another model. Name the right one as `tokenizer` in the study."
        )
    if not model.eos_ids:
        raise BadCheckpoint(f"{uri}: neither tokenizer nor generation config names an end-of-sequence token.")
    masks = {name for name, _ in model.network.named_buffers()}  # which may hold infinity
    for name, weight in (*model.network.named_parameters(), *model.network.named_buffers()):
        is_spoilt = torch.isnan(weight) if name in masks else ~torch.isfinite(weight)
        if not weight.is_meta and is_spoilt.any():
            raise BadCheckpoint(f"{uri}: the weights {name} hold NaN or infinity; the pre-training has diverged.")
