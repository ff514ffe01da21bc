"""Reading a config.json key by key: every key is read, known to be harmless, or reported.

A reader remembers which keys it was asked for.  What is left at the end and is not in `HARMLESS`
is a key that tribody does not know; `refuse_foreign_mathematics` refuses, by name, keys that are
known to change the result and that no family here implements.
"""

from __future__ import annotations

from collections.abc import Mapping

from tribody.core.errors import BadModel

_HARMLESS_WORDS = """
    _attn_implementation _attn_implementation_autoset _name_or_path add_cross_attention
    architectures attention_dropout auto_map aux_loss_alpha bad_words_ids begin_suppress_tokens
    bos_token_id chunk_size_feed_forward cross_attention_hidden_size decoder_start_token_id
    diversity_penalty do_sample dtype early_stopping embd_pdrop encoder_no_repeat_ngram_size
    eos_token_id ep_size exponential_decay_length_penalty finetuning_task forced_bos_token_id
    forced_eos_token_id id2label initializer_range is_decoder is_encoder_decoder is_llama_config
    keys_to_ignore_at_inference label2id length_penalty max_length max_window_layers min_length
    model_type no_repeat_ngram_size num_beam_groups num_beams num_experts_per_token
    num_return_sequences output_attentions output_hidden_states output_router_logits
    output_scores pad_token_id prefix pretraining_tp problem_type pruned_heads
    quantization_config remove_invalid_values repetition_penalty resid_pdrop return_dict
    return_dict_in_generate rope_interleaved_weights router_aux_loss_coef sep_token_id seq_aux
    suppress_tokens task_specific_params temperature tf_legacy_loss tokenizer_class top_k top_p
    torch_dtype torchscript transformers_version transformers.js_config typical_p unk_token_id
    use_bfloat16 use_cache
"""
HARMLESS = frozenset(_HARMLESS_WORDS.split())
# Training, generation and bookkeeping keys.  Generation settings come from generation_config.json,
# quantization_config is the loader's business, pretraining_tp only changes the order of a sum.

NOT_SET: tuple[object, ...] = (None, False)
ONE: tuple[object, ...] = (None, 1)

FOREIGN: Mapping[str, tuple[object, ...]] = {
    "alibi": NOT_SET,
    "attention_chunk_size": NOT_SET,
    "attention_multiplier": NOT_SET,
    "attn_logit_softcapping": NOT_SET,
    "clip_qkv": NOT_SET,
    "compress_ratios": NOT_SET,
    "embedding_multiplier": ONE,
    "final_logit_softcapping": NOT_SET,
    "index_head_dim": NOT_SET,
    "index_n_heads": NOT_SET,
    "index_topk": NOT_SET,
    "layernorm_zero_centered": NOT_SET,
    "logit_scale": ONE,
    "logits_scaling": ONE,
    "mlp_bias": NOT_SET,
    "no_rope_layers": (None, False, []),
    "parallel_attn": NOT_SET,
    "partial_rotary_factor": ONE,
    "qk_layernorm": NOT_SET,
    "qkv_clip": NOT_SET,
    "query_pre_attn_scalar": NOT_SET,
    "residual_multiplier": ONE,
    "rotary_pct": ONE,
    "scale_emb": ONE,
    "use_mrope": NOT_SET,
    "use_parallel_residual": NOT_SET,
    "use_qk_norm": NOT_SET,
}
# Keys that change the mathematics, with the values under which they change nothing.

LARGEST_INTEGER = 1 << 31  # no dimension of a real model comes near; keeps products inside int64


class ConfigReader:
    """A typed, counted view of one JSON object.  Every method raises `BadModel` naming the key."""

    def __init__(self, raw: Mapping[str, object], where: str = "") -> None:
        self._raw = raw
        self._where = where
        self._read: set[str] = set()

    def _name(self, key: str) -> str:
        return f"{self._where}{key}"

    def get(self, key: str) -> object:
        self._read.add(key)
        return self._raw.get(key)

    def has(self, key: str) -> bool:
        return self._raw.get(key) is not None

    def integer(self, key: str, default: int | None = None, *, minimum: int = 1) -> int:
        """The integer under `key`; `default` when absent or null; required when no default."""
        value = self.get(key)
        if value is None:
            if default is None:
                raise BadModel(f"config.json: {self._name(key)} is missing")
            return default
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise BadModel(f"config.json: {self._name(key)} = {value!r} is not an integer")
        if not minimum <= value < LARGEST_INTEGER:
            raise BadModel(f"config.json: {self._name(key)} = {value} is outside [{minimum}, 2^31)")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """The positive number under `key`; `default` when absent or null."""
        value = self.get(key)
        if value is None:
            if default is None:
                raise BadModel(f"config.json: {self._name(key)} is missing")
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadModel(f"config.json: {self._name(key)} = {value!r} is not a number")
        if not 0 < value < float("inf"):
            raise BadModel(f"config.json: {self._name(key)} = {value} is not positive and finite")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise BadModel(f"config.json: {self._name(key)} = {value!r} is not true or false")
        return value

    def choice(self, key: str, allowed: tuple[str, ...], default: str) -> str:
        """One of `allowed`; a different word is refused by name."""
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, str) or value not in allowed:
            raise BadModel(
                f"config.json: {self._name(key)} = {value!r} is not supported; "
                f"supported: {', '.join(allowed)}"
            )
        return value

    def only(self, key: str, allowed: tuple[object, ...]) -> None:
        """Refuse `key` by name unless it is absent or one of `allowed`."""
        value = self.get(key)
        if value is not None and value not in allowed:
            supported = ", ".join(repr(a) for a in allowed) or "absent"
            raise BadModel(
                f"config.json: {self._name(key)} = {value!r} changes the model's mathematics in "
                f"a way that is not supported; supported: {supported}"
            )

    def section(self, key: str) -> ConfigReader | None:
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise BadModel(f"config.json: {self._name(key)} = {value!r} is not an object")
        return ConfigReader(value, f"{self._name(key)}.")

    def token_ids(self, key: str) -> tuple[int, ...]:
        """A token id or a list of them as a tuple; empty when absent."""
        value = self.get(key)
        values = value if isinstance(value, list) else [] if value is None else [value]
        for entry in values:
            if not isinstance(entry, int) or isinstance(entry, bool) or entry < 0:
                raise BadModel(f"config.json: {self._name(key)} = {value!r} is not a token id")
        return tuple(values)

    def refuse_foreign_mathematics(self) -> None:
        for key, neutral in FOREIGN.items():
            if key in self._raw:
                self.only(key, neutral)

    def unknown(self) -> tuple[str, ...]:
        """Keys that were neither read nor known to be harmless, with their section's name."""
        return tuple(
            sorted(self._name(key) for key in self._raw if key not in self._read | HARMLESS)
        )
