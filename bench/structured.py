"""What following a schema costs: the same prompt with and without one, in turns.

    .venv/bin/python bench/structured.py [MODEL …] [--rounds N] [--tokens N] [--threads N]

Sampled at temperature 0.8, one at a time, without drafts.  Rates are generated tokens by seconds,
medians over the rounds after a warm-up; seconds of the process, so that other work on the machine
counts less, which with one thread (the default) is the time that the answer takes.  A mask's time
is that of `LLMatcher.compute_bitmask` after each token of the guided answer, at its first and its
second walk.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

from tribody import LLM
from tribody.engine.guidance import ll_tokenizer
from tribody.text.grammar import grammar_of, json_schema_answer
from tribody.text.grammar_process import compile_grammar

PEOPLE: dict[str, object] = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["name", "age"],
    },
    "minItems": 200,
}


def measure(model: str, rounds: int, tokens: int, threads: int) -> dict[str, object]:
    llm = LLM(model, speculation="off", num_threads=threads, kv_budget_bytes=1 << 27)
    rates: dict[str, list[float]] = {"free": [], "guided": []}
    answer: list[int] = []
    for index in range(rounds + 1):
        for way in sorted(rates, reverse=bool(index % 2)):
            started = time.process_time()
            generation = llm.generate(
                "A list of people as JSON:",
                json_schema=PEOPLE if way == "guided" else None,
                max_tokens=tokens,
                temperature=0.8,
                seed=1,
                ignore_eos=True,
            )
            seconds = time.process_time() - started
            if index:
                rates[way].append(len(generation.choices[0].token_ids) / seconds)
            if way == "guided":
                answer = generation.choices[0].token_ids
    result: dict[str, object] = {"model": llm.info.model_id, "vocab_size": llm.info.vocab_size}
    for way, found in rates.items():
        result[f"{way}_tokens_per_second"] = round(statistics.median(found), 1)
        result[f"{way}_spread"] = [round(min(found), 1), round(max(found), 1)]
    return result | mask_times(llm, answer)


def mask_times(llm: LLM, answer: list[int]) -> dict[str, object]:
    """Median and largest, in microseconds."""
    grammar = grammar_of(json_schema_answer(PEOPLE, "schema"), "none", llm.tokenizer)
    ends = llm.tokenizer.eos_token_ids
    matcher, problem = compile_grammar(
        ll_tokenizer(llm.tokenizer, llm.info.vocab_size, ends), grammar
    )
    assert not problem, problem
    result: dict[str, object] = {}
    for walk in ("first", "second"):
        walked, times = matcher.deep_copy(), []
        for token in answer:
            started = time.perf_counter()
            walked.compute_bitmask()
            times.append(1e6 * (time.perf_counter() - started))
            walked.consume_token(token)
        result[f"mask_us_{walk}"] = [round(statistics.median(times), 1), round(max(times))]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["mini-r1"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    for model in given.models:
        print(json.dumps(measure(model, given.rounds, given.tokens, given.threads)), flush=True)


if __name__ == "__main__":
    main()
