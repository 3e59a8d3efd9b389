"""What the peers import when they begin, for `against_peers.Laboratory`."""

import contextlib

import transformers

for name in ("Trainer", "DataCollatorForSeq2Seq", "LlamaForCausalLM", "DynamicCache"):
    getattr(transformers, name)
with contextlib.suppress(ImportError):
    import peft  # noqa: F401
with contextlib.suppress(ImportError):
    import lm_eval.models.huggingface  # noqa: F401
