"""Write smollm2_tokens.json: the token ids of SmolLM2 for 320 texts, from two other programs.

Run twice, with llama-cpp-python (its vocabulary code is the reference for GGUF) and then with
transformers, whose reading of this GGUF knows no `smollm` pre-tokenizer: it differs where white
space stands before a digit.  Those texts are listed, not dropped.

    .venv-bench/bin/python tests/text/data/make_smollm2_tokens.py FILE.gguf
    .venv-parity/bin/python tests/text/data/make_smollm2_tokens.py FILE.gguf
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import random
import sys
from pathlib import Path

TARGET = Path(__file__).parent / "smollm2_tokens.json"
SEED = 20240601
COUNT = 320

WRITTEN = [
    "",
    " ",
    "\n\n",
    " \n ",
    "Hello, world!",
    "The quick brown fox jumps over the lazy dog.",
    "I'm you're we've he'll she'd it's THEY'RE don'T",
    "don’t “quote” — dash…",
    "3.14159 1,234,567 2024-12-31 0xFF 1e-9",
    "1.  2.   3\n  4\t5",
    "你好，世界！",
    "深度求索发布了新的模型，参数量为671B。",
    "日本語のテキストとカタカナ",
    "한국어 문장입니다.",
    "Привет, мир! مرحبا שלום नमस्ते สวัสดี",
    "👩‍👩‍👧‍👦 🇨🇳 👍🏽 ❤️",
    "é vs e\u0301, Z\u0338\u031b\u0354",
    "ﬁ ½ ² ① Ⅷ ǅ İ",
    "def f(x):\n    return x + 1\n",
    'for (int i = 0; i < n; ++i) {\n\tprintf("%d\\n", i);\n}\n',
    '<html>\n  <body class="a">&nbsp;</body>\n</html>',
    "SELECT * FROM t WHERE a='b' -- c\n",
    '{"a": [1, 2.5, null]}',
    "https://example.com/a?b=c&d=e#f user@example.com",
    "C:\\Windows\\cmd.exe /c dir",
    "$x^2 + y^2 = z^2$ \\frac{a}{b}",
    "a" * 40,
    "^" * 40,
    " " * 40,
    "a\r\nb\rc\nd",
    "\u3000全角\u3000\u00a0nbsp\u200bzero",
    "snake_case kebab-case CamelCase ALLCAPS",
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    "a<|endoftext|>b <|im_end|>",
    "<think>\nhm\n</think>\n\nok",
    "\x00null\x7f\ufffd",
]
ALPHABETS = [
    "abcdefghijklmnopqrstuvwxyz ABCDE.,'\n",
    "0123456789 abc.-",
    "的一是不了在人有我他这中大来上国个到说们。，！",
    "αβγδ абвг éèüñ ",
    " \t\n\r  a.",
    "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ab",
    "😀👍🏽\u200d❤️🇨🇳👩🚀 a",
    "あいうアイウ漢字ー。 ",
    "\u0301\u0308eao \u200d\u00a0",
    "(){}[];=+ \n\tifor0123",
]


def texts() -> list[str]:
    draw = random.Random(SEED)
    made = list(WRITTEN)
    while len(made) < COUNT:
        first, second = draw.choice(ALPHABETS), draw.choice(ALPHABETS)
        size = draw.randint(1, 60)
        made.append(
            "".join(draw.choice(first if draw.random() < 0.7 else second) for _ in range(size))
        )
    return made


def by_llama_cpp(path: Path) -> dict[str, object]:
    from llama_cpp import Llama

    model = Llama(str(path), vocab_only=True, verbose=False)
    samples = texts()
    return {
        "recipe": "tests/text/data/make_smollm2_tokens.py",
        "gguf_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "llama_cpp_python": importlib.metadata.version("llama-cpp-python"),
        "texts": samples,
        "ids": [model.tokenize(text.encode(), add_bos=False, special=True) for text in samples],
    }


def by_transformers(path: Path, golden: dict[str, object]) -> dict[str, object]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
    samples, expected = golden["texts"], golden["ids"]
    assert isinstance(samples, list)
    assert isinstance(expected, list)
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in samples]
    differs = [
        index for index, pair in enumerate(zip(ids, expected, strict=True)) if pair[0] != pair[1]
    ]
    return {
        **golden,
        "transformers": importlib.metadata.version("transformers"),
        "transformers_differs": differs,
    }


def main() -> None:
    path = Path(sys.argv[1])
    try:
        golden = by_llama_cpp(path)
    except ImportError:
        golden = by_transformers(path, json.loads(TARGET.read_text(encoding="utf-8")))
    TARGET.write_text(json.dumps(golden, ensure_ascii=True, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
