"""mini-r1's tokenizer: byte-level BPE in the Hugging Face layout, trained on the generator's text.

How text is cut before merging decides what the model can see: every digit is a token, and so is
every letter of a word that follows no space (a quoted string, a key); a word after a space, a
capitalised word and a run of Chinese are merged.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

# The ids of DeepSeek's first three are kept; the rest follow in this order.
SPECIAL = (
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    "<｜▁pad▁｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
    "<think>",
    "</think>",
    "<｜fim▁hole｜>",
    "<｜fim▁begin｜>",
    "<｜fim▁end｜>",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁outputs▁begin｜>",
    "<｜tool▁outputs▁end｜>",
    "<｜tool▁output▁begin｜>",
    "<｜tool▁output▁end｜>",
    "<｜tool▁sep｜>",
    "<|EOT|>",
)
BOS_ID, EOS_ID, PAD_ID = 0, 1, 2
# As in DeepSeek's files, these two are ordinary added tokens: decoding keeps them.
_NOT_SPECIAL = ("<think>", "</think>")
_MARK = r"[^\s\p{L}\p{N}]+"  # `": "` and ` + ` are one piece: what they join stays near
CUT = (
    r"\p{N}| ?[A-Z][a-z]+| [a-z]+|\p{Han}+"
    rf"| ?{_MARK}(?: {_MARK})*(?: (?=\p{{N}}))?|\p{{L}}|\s"
)


def train(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Merges learned from `texts`, which must not hold control tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CUT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[
            AddedToken(text, special=text not in _NOT_SPECIAL, normalized=False) for text in SPECIAL
        ],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    written = json.loads(tokenizer.to_str())
    for token in written["added_tokens"]:
        token["special"] = token["content"] not in _NOT_SPECIAL  # the trainer makes all special
    return Tokenizer.from_str(json.dumps(written))


def write(tokenizer: Tokenizer, folder: Path, chat_template: str, max_length: int) -> None:
    """tokenizer.json and tokenizer_config.json."""
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    config = {
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": SPECIAL[BOS_ID],
        "eos_token": SPECIAL[EOS_ID],
        "pad_token": SPECIAL[PAD_ID],
        "unk_token": None,
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_length,
        "tokenizer_class": "LlamaTokenizerFast",
        "chat_template": chat_template,
    }
    text = json.dumps(config, ensure_ascii=False, indent=2)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
