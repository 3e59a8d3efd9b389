"""A checkpoint's tokenizer, cutting text as it did in pre-training."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils.hub import cached_file

from softprompt.cache import Cache, open_tokenizer
from softprompt.errors import BadStudy, in_short

PROBE = "a I'm SURE: in 2024, 12345.6% of  two\n\n were\tit. cafe\u0301 \u2167 \u5317\u4eac"
"""What tokenizers cut in different ways: contractions, capitals, digits, white space, forms of Unicode."""


def load_tokenizer(place: str | Path, *, with_code: bool = False) -> Any:
    """The tokenizer at `place`, a folder or a name on the hub, which cuts words as its tokenizer.json says.

    For networks such as Qwen 2, and for the names of classes such as GPT2Tokenizer, transformers 5 puts its own rules
    in place of the file's. Those of a team's own tokenizer would be lost, and the model be asked in tokens that it has
    never seen. The beginning of a text may differ: there a setting, `add_prefix_space`, rightly has a say.
    """
    tokenizer: Any = AutoTokenizer.from_pretrained(place, trust_remote_code=with_code)
    is_of_transformers = type(tokenizer).__module__.startswith("transformers.")
    if not (is_of_transformers and isinstance(tokenizer, PreTrainedTokenizerFast) and _has_rules(place)):
        return tokenizer
    own: Any = PreTrainedTokenizerFast.from_pretrained(place)
    cut, as_said = (each(PROBE, add_special_tokens=False).input_ids[1:] for each in (tokenizer, own))
    return tokenizer if cut == as_said and len(tokenizer) == len(own) else own


def _has_rules(place: str | Path) -> bool:
    quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    return cached_file(str(place), "tokenizer.json", **quiet) is not None


def load_named_tokenizer(place: str, cache: Cache | None, *, with_code: bool = False) -> Any:
    """The one that a study names: a folder, a URL or a name on the hub.

    Raises:
        BadStudy: it cannot be read.
    """
    with open_tokenizer(place, cache) as source:
        try:
            return load_tokenizer(source, with_code=with_code)
        except Exception as error:  # of many kinds; no checkpoint is to blame
            raise BadStudy(
                f"The tokenizer {place} cannot be loaded ({type(error).__name__}: {in_short(str(error))}); correct "
                "`tokenizer`, or leave it out if the checkpoints have one."
            ) from error
