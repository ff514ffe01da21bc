"""Bodies that JSON parsers are known to trip over, each with the answer that it gets.

All are sent where a chat request is expected.  `GOOD` ones hold a valid request beside the oddity.
"""

from __future__ import annotations

import gzip
import json

MODEL = b'"model":"scripted"'
REST = b'"messages":[{"role":"user","content":"x"}],"max_tokens":2,"temperature":0'
VALID = b"{" + MODEL + b"," + REST + b"}"


def with_value(value: bytes) -> bytes:
    """A valid request with `value` in a field that nobody knows."""
    return b'{"odd":' + value + b"," + VALID[1:]


def with_text(text: bytes) -> bytes:
    """A valid request whose message is what these bytes between quotes are."""
    return VALID.replace(b'"content":"x"', b'"content":"' + text + b'"')


_NUMBERS = [
    "0", "-0", "-0.0", "1", "-1", "1e5", "1E5", "1e+5", "1e-5", "1.5e300", "1e308", "-1e308",
    "5e-324", "9007199254740993", "2147483648", "9223372036854775807", "9223372036854775808",
    "-9223372036854775808", "-9223372036854775809", "18446744073709551615",
    "18446744073709551616", "1" * 300, "0." + "3" * 300,
]  # fmt: skip
_NOT_NUMBERS = [
    "01", "-01", "00", "+1", ".5", "-.5", "1.", "1.e5", "1e", "1e+", "1e-", "1e1.5", "0x10", "0b1",
    "0o7", "1_000", "1,0", "--", "-", "-a", "NaN", "nan", "Infinity", "-Infinity", "inf", "1f",
    "1L", "١", "１", "½", "1e5e5", "1.2.3",
]  # fmt: skip
_NOT_VALUES = [
    "True", "False", "None", "TRUE", "nul", "nulll", "tru", "undefined", "'x'", "x", "/x/", "`x`",
    "<x>", "\\", ";", ",", ":", "]", "}", ",]", "[,1]", "[1,]", "[1,,2]", "[1:2]", "[1", "{1:2}",
    "{1}", "{a:1}", "{'a':1}", '{"a"}', '{"a":}', '{"a":1,}', "{,}", '{"a" 1}', '{"a"::1}',
    '{"a":1"b":2}', "{null:1}", "[1;2]", "/*x*/1", "1/*x*/", "//x", "#x", '"x" "y"', '1 2',
]  # fmt: skip
_NOT_TEXTS = [
    rb"\x41", rb"\a", rb"\0", rb"\'", rb"\U0041", rb"\u", rb"\u1", rb"\u12", rb"\u123", rb"\u12g4",
    rb"\u{41}", rb"\u+041", rb"\ ", b"\\", b'"', b"\n", b"\r", b"\t",
    rb"\ud800", rb"\udfff", rb"\udc00\ud800", rb"\ud800\ud800", rb"\ud800x", rb"\ud800\u0041",
]  # fmt: skip
_NOT_UTF8 = [
    b"\x80", b"\xbf", b"\xc0\x80", b"\xc1\xbf", b"\xc3", b"\xc3(", b"\xe0\x80\x80", b"\xe2\x82",
    b"\xe2(\xa1", b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xed\xa0\xbd\xed\xb8\x80",
    b"\xf0\x80\x80\x80",
    b"\xf0\x9f\x98", b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80", b"\xf8\x88\x80\x80\x80",
    b"\xfe", b"\xff", b"\xff\xfe", "ü".encode("latin-1"),
    "日本".encode("shift-jis"), "日本".encode("euc-jp"),
]  # fmt: skip
_TEXTS = [
    b"", b" ", rb"\u0000", rb"\u0001", rb"\u001f", rb"\u007f", rb"\u0080", rb"\ufeff", rb"\ufffe",
    rb"\uffff", rb"\ud83d\ude00", rb"\"\\\/\b\f\n\r\t", rb"\u2028\u2029", rb"\u202e", rb"\u200b",
    "😀".encode(), "你好".encode(), "é".encode(), "e\u0301".encode(), b"\x7f", b"{}", b"[1,2",
    b"</s>", b"<|im_end|>", rb"\\u0041", b"%00", b"${x}", b"{{ 7 * 7 }}", b"'; DROP TABLE x; --",
]  # fmt: skip
_SHORT = (VALID[:i] for i in range(0, len(VALID), 3))

GOOD: list[bytes] = [
    VALID,
    b" \t\r\n" + VALID + b" \t\r\n",
    VALID.replace(b",", b" ,\r\n\t").replace(b":", b" : "),
    json.dumps(json.loads(VALID), indent=8).encode(),
    VALID.replace(b'"model"', rb'"\u006dodel"'),
    VALID.replace(b'"scripted"', b'"nobody","model":"scripted"'),
    VALID[:-1] + b',"max_tokens":null,"max_tokens":3}',
    *(with_value(number.encode()) for number in _NUMBERS),
    *(with_text(text) for text in _TEXTS),
    *(with_value(value) for value in (b"null", b"true", b"false", b'""', b"[]", b"{}", b"[[]]")),
    with_value(b"[" * 100 + b"]" * 100),
    with_value(b'{"a":' * 100 + b"1" + b"}" * 100),
    with_value(b"[" + b"0," * 100_000 + b"0]"),
    with_value(b"{" + b",".join(b'"k%d":%d' % (i, i) for i in range(100_000)) + b"}"),
    with_value(b"{" + b",".join([b'"k":1'] * 10_000) + b"}"),
    with_value(b'"' + b"a" * 2**20 + b'"'),
    with_value(b'"' + rb"\u0041" * 2**16 + b'"'),
    with_value(b"1" * 4_000),
    with_value(b'{"":1,"\\u0000":2,"\xc3\xbc":3,"__proto__":{},"constructor":{}}'),
]
BAD: list[bytes] = [
    *_SHORT,
    b" ", b"\n", b"\0", VALID + b"\0", b"\0" + VALID, VALID + VALID, VALID + b"x", VALID + b"}",
    b"\xef\xbb\xbf" + VALID, *(VALID.decode().encode(name) for name in ("utf-16", "utf-16-le",
    "utf-16-be", "utf-32", "utf-32-be", "utf-7")[:5]),
    gzip.compress(VALID, mtime=0), b"model=scripted&messages=x", b"<model>scripted</model>",
    b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nscripted\r\n--x--\r\n',
    *(with_value(number.encode()) for number in _NOT_NUMBERS),
    *(with_value(value.encode()) for value in _NOT_VALUES),
    *(with_text(text) for text in _NOT_TEXTS),
    *(with_text(bytes([code])) for code in range(0x20)),
    *(with_text(text) for text in _NOT_UTF8),
    *(with_value(b'"' + text + b'"') for text in _NOT_UTF8),
    *(scalar for scalar in (b"null", b"true", b"false", b"0", b"1.5", b'""', b'"x"', b"[]")),
    b"[" + VALID + b"]",
    *(with_value(b"[" * depth + b"]" * depth) for depth in (10_000, 100_000)),
    *(with_value(b'{"a":' * depth + b"1" + b"}" * depth) for depth in (10_000, 100_000)),
    b"[" * 100_000, b'{"a":' * 100_000, b'"' * 100_001, b"[" * 100_000 + b"}" * 100_000,
]  # fmt: skip

# Fields and what else than their type may come; each is wrong.
KINDS: dict[str, str] = {
    "stream": "bool", "temperature": "number", "top_p": "number", "top_k": "int",
    "min_p": "number", "frequency_penalty": "number", "presence_penalty": "number",
    "repetition_penalty": "number", "logit_bias": "object", "seed": "int", "stop": "text or list",
    "stop_token_ids": "list", "max_tokens": "int", "n": "int", "ignore_eos": "bool",
    "user": "text", "user_id": "text", "thinking": "object", "chat_template_kwargs": "object",
    "reasoning_effort": "text", "max_completion_tokens": "int", "logprobs": "bool",
    "top_logprobs": "int", "response_format": "object", "tools": "list",
    "tool_choice": "text or object", "parallel_tool_calls": "bool", "stream_options": "object",
}  # fmt: skip
_SAMPLES = {"bool": True, "int": 1, "number": 1.5, "text": "a", "list": [{}], "object": {"a": []}}


def wrong_types() -> list[tuple[str, bytes]]:
    """(field, body) for every field and every type of JSON that it does not take."""
    made = []
    for field, kinds in KINDS.items():
        taken = kinds.split(" or ")
        for kind, sample in _SAMPLES.items():
            if kind in taken or (kind, taken) == ("int", ["number"]):
                continue
            made.append((field, json.dumps(json.loads(VALID) | {field: sample}).encode()))
    return made
