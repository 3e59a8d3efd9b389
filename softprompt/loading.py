"""Loading a checkpoint: what is broken is said in a sentence, and the last model stays."""

import json
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from softprompt import processes
from softprompt.cache import Cache, open_locally, open_tokenizer
from softprompt.checkpoints import Checkpoint
from softprompt.completeness import CONFIG_FILE, broken_json
from softprompt.decode import answer
from softprompt.errors import BadCheckpoint, BadStudy, SoftPromptError
from softprompt.memory import does_not_fit
from softprompt.models import LanguageModel
from softprompt.prefill import Prefill
from softprompt.prompt import TOKEN, Prompt
from softprompt.protocol import Resources
from softprompt.trials import are_near

MAX_REASON = 300
"""Most characters of a library's own words in a message."""
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
            if not should_reduce_batch_size(error):
                raise
            raise does_not_fit(checkpoint.uri, str(error)) from error
    model = _last[key]
    if model.device.type == "cuda":  # for this thread: CUDA graphs and clocks go by the device that is current
        torch.cuda.set_device(model.device)
    return model


def _load(
    checkpoint: Checkpoint, resources: Resources, tokenizer_source: str | None, cache: Cache | None
) -> LanguageModel:
    uri = checkpoint.uri
    device, is_spread = _device(resources), resources.devices_per_process > 1
    dtype = resources.dtype
    if dtype == "auto":
        dtype = "float32" if device.type == "cpu" else "bfloat16"
    with open_locally(checkpoint, cache, with_code=resources.trust_remote_code) as folder, without_bars():
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=getattr(torch, dtype),
                use_safetensors=True,
                trust_remote_code=resources.trust_remote_code,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused below, by name
                device_map="auto" if is_spread else None,
            )
            tokenizer = (
                _named_tokenizer(tokenizer_source, resources, cache)
                if tokenizer_source
                else AutoTokenizer.from_pretrained(folder, trust_remote_code=resources.trust_remote_code)
            )
        except SoftPromptError:
            raise
        except Exception as error:  # transformers raises many kinds for broken files; each is one broken checkpoint
            if should_reduce_batch_size(error):
                raise
            if broken := broken_json(folder):
                raise BadCheckpoint(f"{uri}/{broken} is half written or no JSON; upload it again.") from error
            if unknown := _unknown_architecture(folder, with_code=resources.trust_remote_code):
                raise BadCheckpoint(
                    f"{uri} has the architecture {unknown!r}, which transformers {transformers.__version__} does not "
                    "know; install a newer one or, if the checkpoint brings Python code of its own, let that run by "
                    "--trust-remote-code (`trust_remote_code` in the study's [resources])."
                ) from error
            reason = _in_short(str(error).replace(str(folder), uri))
            raise BadCheckpoint(
                f"{uri} cannot be loaded ({type(error).__name__}: {reason}); save config, weights and tokenizer again "
                "with save_pretrained."
            ) from error
    network, loading = loaded
    if loading["mismatched_keys"]:
        name, found, expected = min(loading["mismatched_keys"])
        raise BadCheckpoint(
            f"{uri}: the weights {name} are {' x '.join(map(str, found))}, its config asks for "
            f"{' x '.join(map(str, expected))}; config and weights belong to two models, save both again."
        )
    if loading["missing_keys"]:
        raise BadCheckpoint(
            f"{uri} lacks the weights {', '.join(sorted(loading['missing_keys'])[:3])}, which would be random; "
            "save the checkpoint again in full."
        )
    network = network if is_spread else network.to(device)
    model = LanguageModel(network.eval().requires_grad_(False), tokenizer)
    _check(model, uri)
    _try(model, uri)
    return model


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


def _named_tokenizer(place: str, resources: Resources, cache: Cache | None) -> Any:
    with open_tokenizer(place, cache) as source:
        try:
            return AutoTokenizer.from_pretrained(source, trust_remote_code=resources.trust_remote_code)
        except Exception as error:  # of many kinds, as above; no checkpoint is to blame
            reason = _in_short(str(error))
            raise BadStudy(
                f"The tokenizer {place} cannot be loaded ({type(error).__name__}: {reason}); correct `tokenizer`, or "
                "leave it out if the checkpoints have one."
            ) from error


def _unknown_architecture(folder: Path, *, with_code: bool) -> str | None:
    """The model type that a checkpoint's config names, if neither transformers nor code of its own has the model."""
    config = json.loads((folder / CONFIG_FILE).read_bytes())
    if not isinstance(config, dict) or (with_code and "auto_map" in config):
        return None
    name = config.get("model_type")
    return name if name and name not in transformers.CONFIG_MAPPING else None


def _in_short(reason: str) -> str:
    """A library's complaint in one line, cut between words."""
    return textwrap.shorten(reason, MAX_REASON, placeholder=" ...")


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
    if len(model.tokenizer) > num_rows:
        raise BadCheckpoint(
            f"{uri}: the tokenizer has {len(model.tokenizer)} tokens, the embedding only {num_rows} rows; "
            "the tokenizer belongs to another model. Name the right one as `tokenizer` in the study."
        )
    if not model.eos_ids:
        raise BadCheckpoint(f"{uri}: neither tokenizer nor generation config names an end-of-sequence token.")
    for name, weight in model.network.named_parameters():
        if not weight.is_meta and not torch.isfinite(weight).all():
            raise BadCheckpoint(f"{uri}: the weights {name} hold NaN or infinity; the pre-training has diverged.")


def _try(model: LanguageModel, uri: str) -> None:
    """Answer two short prompts. A network that does not run as others do, or that takes padding for text, would fail in
    the middle of a job or, worse, give scores that depend on who shares a pass."""
    ids = [i % len(model.tokenizer) for i in range(20)]
    short, long = (Prompt(ids=its, slots=[TOKEN] * len(its), head_length=2) for its in (ids[:4], ids[4:]))
    try:
        prefill = Prefill(model)
        passes = ([short], [long], [short, long])
        alone_V, other_V, padded_V = (prefill.read(prompts).logits_BV[0].clamp(min=-1e6) for prompts in passes)
        answer(prefill, [short, long], max_new_tokens=2, candidates=[[ids[:2], ids[1:3]]] * 2)
    except Exception as error:  # whatever its code may raise
        if should_reduce_batch_size(error):
            raise
        raise BadCheckpoint(
            f"{uri}: its network, {type(model.network).__name__}, cannot be evaluated here ({type(error).__name__}: "
            f"{_in_short(str(error))}); docs/architectures.md says what one must do."
        ) from error
    if not are_near(padded_V, alone_V, (other_V - alone_V).abs().max()):
        raise BadCheckpoint(
            f"{uri}: its network, {type(model.network).__name__}, takes padding for text, so that scores would depend "
            "on which prompts share a pass; docs/architectures.md says what one must do."
        )
