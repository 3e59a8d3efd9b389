"""A language model: the few things about it that the rest of the heavy half needs."""

import functools
import inspect
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import LinearAttentionCacheLayerMixin

from softprompt.last_layer import LastMLP
from softprompt.output_layer import OutputLayer


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A frozen causal language model and its tokenizer. Shapes: B rows, T positions, D width, V vocabulary."""

    network: Any
    tokenizer: Any

    @property
    def device(self) -> torch.device:
        return self.network.get_input_embeddings().weight.device

    @functools.cached_property
    def devices(self) -> list[torch.device]:
        """All that hold weights, the one for inputs first."""
        return list(dict.fromkeys([self.device, *(w.device for w in self.network.parameters() if not w.is_meta)]))

    @functools.cached_property
    def matrices(self) -> list[tuple[str, Tensor]]:
        """The weights that every token is multiplied by, apart from the output layer's."""
        tables = {id(m.weight) for m in self.network.modules() if isinstance(m, torch.nn.Embedding)}
        tables.add(id(self.network.get_output_embeddings().weight))
        return [(n, w) for n, w in self.network.named_parameters() if w.ndim > 1 and id(w) not in tables]

    @functools.cached_property
    def last_mlp(self) -> LastMLP:
        return LastMLP(self.network)

    @functools.cached_property
    def output_layer(self) -> OutputLayer:
        return OutputLayer(self.network)

    @functools.cached_property
    def num_body_parameters(self) -> float:
        """Of the matrices outside of the last layer's MLP, which every token meets."""
        return self._num_met(in_last_mlp=False)

    def _num_met(self, *, in_last_mlp: bool) -> float:
        """Parameters of the matrices inside or outside of the last layer's MLP; of experts, the chosen ones alone."""
        config = self.network.config.get_text_config()
        counts = (getattr(config, name, None) for name in ("num_local_experts", "n_routed_experts", "num_experts"))
        num_experts = next(filter(None, counts), 1)
        share = getattr(config, "num_experts_per_tok", 1) / num_experts
        last = {id(weight) for weight in self.last_mlp.weights}
        weights = ((name, weight) for name, weight in self.matrices if (id(weight) in last) == in_last_mlp)
        return sum(weight.numel() * (share if ".experts." in name else 1) for name, weight in weights)

    @property
    def num_layer_parameters(self) -> float:
        """Of one layer, on average, the last MLP left out where it runs at wanted places alone."""
        return self.num_body_parameters / self.network.config.get_text_config().num_hidden_layers

    @functools.cached_property
    def num_output_parameters(self) -> int:
        return self.network.get_output_embeddings().weight.numel()

    @functools.cached_property
    def num_last_parameters(self) -> float:
        """Of the last layer's MLP and the output layer, which tokens meet only for their logits."""
        return self._num_met(in_last_mlp=True) + self.num_output_parameters

    def pass_flops(self, num_tokens: int, num_logits: int) -> float:
        """Of a forward pass over so many tokens, with logits at some of them; attention's products are left out."""
        return 2 * (self.num_body_parameters * num_tokens + self.num_last_parameters * num_logits)

    def pass_bytes(self, num_positions: int, num_logits: int, *, backward: bool = False) -> float:
        """Estimate of what one row of a forward pass takes, from above.

        Args:
            backward: whether what the way back needs is kept: in every layer 12 x width + 5 x inner width numbers a
                position (measured on six architectures: 40 to 76 % of that). Else keys and values are kept, and that
                much in the layer at work.
        """
        config, size = self.network.config.get_text_config(), self.network.dtype.itemsize
        width, num_layers = config.hidden_size, config.num_hidden_layers
        inner = getattr(config, "intermediate_size", None) or 4 * width
        at_work = 12 * width + 5 * inner
        per_position = num_layers * at_work if backward else num_layers * 2 * width + at_work
        per_logit = self.num_output_parameters / width * (size + 4 * (4 if backward else 2))  # softmax is in float32
        if backward and self.output_layer.is_on:
            per_logit = 0  # next to a position's
        return num_positions * per_position * size + num_logits * per_logit

    @functools.cached_property
    def num_tokens(self) -> int:
        """That tokenizer and embedding both have. Gemma 3's tokenizer has one more, which stands for an image."""
        return min(len(self.tokenizer), self.network.get_input_embeddings().weight.shape[0])

    @functools.cached_property
    def marks(self) -> dict[int, bool]:
        """Tokens beside those of the vocabulary, such as what ends a turn, and whether they are special ones."""
        added = self.tokenizer.added_tokens_decoder
        if not isinstance(added, dict):  # but a method that raises: mistral-common's
            return dict.fromkeys(self.tokenizer.all_special_ids, True)
        return {i: token.special for i, token in added.items()}

    @functools.cached_property
    def bos_ids(self) -> list[int]:
        """What the tokenizer itself puts in front of every text: usually one BOS token, or nothing."""
        alone, whole = self.encode("a"), self.tokenizer("a").input_ids
        starts = (start for start in range(len(whole)) if whole[start : start + len(alone)] == alone)
        return whole[: next(starts, 0)]

    @functools.cached_property
    def eos_ids(self) -> frozenset[int]:
        """Every token that ends an answer. A config that names an ordinary one has not been asked: 2, a default, is a
        mark of punctuation in many vocabularies."""
        configured, own = self.network.generation_config.eos_token_id, self.tokenizer.eos_token_id
        ids = configured if isinstance(configured, list) else [configured]
        if own is not None:
            ids = [own, *(i for i in ids if i in self.marks)]
        return frozenset(i for i in ids if i is not None)

    @property
    def terminator_id(self) -> int:
        """The token that tuned answers end with."""
        token = self.tokenizer.eos_token_id
        return token if token is not None else min(self.eos_ids)

    @functools.cached_property
    def context_length(self) -> int | None:
        return getattr(self.network.config.get_text_config(), "max_position_embeddings", None)

    @functools.cached_property
    def forward_names(self) -> frozenset[str]:
        """Names of the arguments that the network's `forward` takes."""
        return frozenset(inspect.signature(self.network.forward).parameters)

    @functools.cached_property
    def is_recurrent(self) -> bool:
        """Whether some layers keep the past as a state (Mamba, gated delta rule) rather than as keys and values.

        Such a state goes on by one token at a time only, and what changes it leaves no gradient behind.
        """
        layers = DynamicCache(config=self.network.config).layers
        return any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in layers)

    @functools.cached_property
    def window(self) -> float:
        """How many positions the layer that sees least looks back; 0 if the network takes columns for positions, as MPT
        does."""
        if "position_ids" not in self.forward_names:
            return 0
        config = self.network.config.get_text_config()
        limits = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size", "window_size"))
        return min(filter(None, limits), default=math.inf)

    @functools.cached_property
    def attention(self) -> str:
        """Name of the function that attends, as the network looks it up."""
        return self.network.config.get_text_config()._attn_implementation

    @functools.cached_property
    def cache_name(self) -> str:
        """What the network calls its cache, as an argument and in its output."""
        return "cache_params" if "cache_params" in self.forward_names else "past_key_values"

    @functools.cached_property
    def embedding_rms(self) -> float:
        """Root mean square of the embedded vocabulary, scale of the embedding layer included (Gemma has one)."""
        squares, count = 0.0, 0
        for ids in torch.split(torch.arange(self.num_tokens, device=self.device), 8192):
            rows_VD = self.embed(ids).double()
            squares, count = squares + rows_VD.square().sum().item(), count + rows_VD.numel()
        return (squares / count) ** 0.5

    def encode(self, text: str) -> list[int]:
        """Tokens of `text` alone, no special tokens added."""
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def continuation(self, prompt: str, answer: str) -> list[int]:
        """Tokens of `answer` as they follow the tokens of `prompt`.

        Where the tokenizer would merge the two at the join, the answer is tokenised alone, so that the prompt's own
        tokens, which the model is given at test time, never change.
        """
        prompt_ids, joint_ids = self.encode(prompt), self.encode(prompt + answer)
        if joint_ids[: len(prompt_ids)] == prompt_ids:
            return joint_ids[len(prompt_ids) :]
        return self.encode(answer)

    @torch.no_grad()
    def embed(self, ids: Tensor) -> Tensor:
        """(...) token ids -> (..., D), as the network itself embeds them."""
        return self.network.get_input_embeddings()(ids)

    def forward(self, *, num_logits: int, mask_BT: Tensor, cache: Any = None, **inputs: Tensor) -> tuple[Tensor, Any]:
        """One pass over `inputs` (`inputs_embeds` or `input_ids`), which continue `cache` if there is one.

        Args:
            num_logits: logits are computed for the last so many positions only.
            mask_BT: (B, cached + new positions), 0 at padding. Positions are counted along it.

        Returns:
            (B, num_logits, V) logits and the cache.
        """
        num_new = next(iter(inputs.values())).shape[1]
        if self.is_recurrent and cache is not None and num_new > 1:
            return self._one_by_one(num_logits, mask_BT, cache, inputs)
        arguments: dict[str, Any] = {**inputs, "attention_mask": mask_BT, "use_cache": True}
        if self.cache_name == "cache_params":
            arguments["attention_mask"] = mask_BT[:, -num_new:]  # Mamba multiplies the new positions by it
        if "position_ids" in self.forward_names:
            last = self.context_length and self.context_length - 1  # padding behind a short answer may lie beyond it
            arguments["position_ids"] = (mask_BT.cumsum(1) - 1).clamp(0, last)[:, -num_new:]
        # As indices, since of a slice, which is strided, the output layer would make one product for each row.
        wanted_L = torch.arange(num_new - num_logits, num_new, device=self.device)
        if "logits_to_keep" in self.forward_names:
            arguments["logits_to_keep"] = wanted_L
        if cache is None and not self.is_recurrent and self.cache_name in self.forward_names:
            cache = DynamicCache()  # its own forgets what lies behind a window that its config names, used or not
        if cache is not None:
            arguments[self.cache_name] = cache
        with self.last_mlp.only(wanted_L):
            output = self.network(**arguments)
        return output.logits[:, -num_logits:], output[self.cache_name]

    def _one_by_one(
        self, num_logits: int, mask_BT: Tensor, cache: Any, inputs: dict[str, Tensor]
    ) -> tuple[Tensor, Any]:
        """Given several tokens, Mamba's layers would start from an empty state (transformers 5.23)."""
        ((name, values_BT),) = inputs.items()
        num_new = values_BT.shape[1]
        logits_BTV = []
        for i in range(num_new):
            seen_BT = mask_BT[:, : mask_BT.shape[1] - num_new + i + 1]
            logits_B1V, cache = self.forward(
                num_logits=1, mask_BT=seen_BT, cache=cache, **{name: values_BT[:, i : i + 1]}
            )
            logits_BTV.append(logits_B1V)
        return torch.cat(logits_BTV, dim=1)[:, -num_logits:], cache
