"""The multi-token-prediction module: what it reads, in which steps, and how often it is right."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.models.tiny import (
    CONFIGS,
    MemoryCheckpoint,
    tiny_checkpoint,
    tiny_tokens,
    weight,
)
from tests.models.tolerance import logits_tolerance
from tribody.core.errors import BadModel
from tribody.core.request import Chunk
from tribody.engine.model_executor import step_input
from tribody.loading import bundled
from tribody.loading.checkpoint import open_checkpoint
from tribody.memory.kv_store import KVStore
from tribody.models import deepseek_mtp
from tribody.models.config import read_config
from tribody.models.load import has_drafter, load_model
from tribody.models.step_input import Drafter, Model
from tribody.ops import native, reference
from tribody.quality.held_out import bundled_file, choose, read_items
from tribody.text.chat_template import chat_template_for
from tribody.text.tokenizer import Tokenizer

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
NAME = "v3-q-lora"


def with_module(name: str = NAME) -> MemoryCheckpoint:
    """A tiny model with its module, and the copies of embedding and head that DeepSeek stores."""
    plain = tiny_checkpoint(name)
    config = CONFIGS[name] | {"num_nextn_predict_layers": 1}
    shapes = dict(deepseek_mtp.tensor_shapes(read_config(config)))
    shapes["model.layers.3.embed_tokens.weight"] = (101, 64)
    shapes["model.layers.3.shared_head.head.weight"] = (101, 64)
    module = {tensor: weight(1, tensor, shape) for tensor, shape in shapes.items()}
    return MemoryCheckpoint(config, plain.tensors | module)


def loaded() -> tuple[Model, Drafter]:
    model = load_model(with_module(), reference.OPS, "float32", drafter=True)
    assert model.drafter is not None
    return model, model.drafter


def drafted(model: Model, drafter: Drafter, tokens: list[int], ends: list[int]) -> tuple[I32, F32]:
    """The drafts and states of all positions but the last, computed in steps that end at `ends`.

    Steps of one token are generated ones: the absorbed form.
    """
    pages = [5, 3]
    trunk = KVStore(model.kv_layout, 8, "float32")
    own = KVStore(drafter.kv_layout, 8, "float32")
    guesses, states = [], []
    start = 0
    for end in ends:
        rows = np.arange(end - start)
        model.forward(
            step_input([Chunk(0, tokens[start:end], start, pages, end - start == 1)], rows), trunk
        )
        following = Chunk(0, tokens[start + 1 : end + 1], start, pages, end - start == 1)
        (guess,), state = drafter.draft(step_input([following], rows), drafter.hidden(rows), 1, own)
        guesses.append(guess)
        states.append(state)
        start = end
    return np.concatenate(guesses), np.concatenate(states)


def test_drafts_do_not_depend_on_how_their_rows_came() -> None:
    model, drafter = loaded()
    tokens = tiny_tokens(80)
    guesses, states = drafted(model, drafter, tokens, [79])
    tolerance = logits_tolerance(CONFIGS[NAME], states)
    assert len(set(guesses.tolist())) > 10, "the module says the same thing everywhere"
    for ends in ([30, 64, 79], [40, *range(41, 80)]):
        others, close = drafted(model, drafter, tokens, ends)
        assert np.abs(close - states).max() <= tolerance
        assert (others == guesses).mean() > 0.95, "a draft changes only where two are equal"


def test_the_module_reads_its_own_past_and_the_following_token() -> None:
    """Both inputs and the module's latents matter: a module deaf to one would pass otherwise."""
    model, drafter = loaded()
    tokens = tiny_tokens(40)
    _, states = drafted(model, drafter, tokens, [39])
    _, other_end = drafted(model, drafter, [*tokens[:39], (tokens[39] + 1) % 101], [39])
    assert np.array_equal(other_end[:-1], states[:-1])
    assert np.abs(other_end[-1] - states[-1]).max() > 0.1
    _, halves = drafted(model, drafter, tokens, [20, 39])
    own = KVStore(drafter.kv_layout, 8, "float32")
    following = step_input([Chunk(0, tokens[21:40], 20, [5, 3], False)], np.arange(19))
    _, forgot = drafter.draft(following, drafter.hidden(np.arange(19)), 1, own)
    assert np.abs(forgot - halves[20:]).max() > 0.01


def test_a_module_is_read_only_when_asked_for_and_only_if_it_is_there() -> None:
    checkpoint = with_module()
    assert has_drafter(checkpoint)
    assert load_model(checkpoint, reference.OPS, "float32").drafter is None
    plain = load_model(tiny_checkpoint(NAME), reference.OPS, "float32")
    assert loaded()[0].weights.num_bytes > plain.weights.num_bytes
    del checkpoint.tensors["model.layers.3.hnorm.weight"]
    with pytest.raises(BadModel, match=r"model\.layers\.3\.hnorm\.weight"):
        load_model(checkpoint, reference.OPS, "float32", drafter=True)
    del checkpoint.tensors["model.layers.3.eh_proj.weight"]
    assert not has_drafter(checkpoint), "many conversions leave the module out"
    assert not has_drafter(tiny_checkpoint("llama"))


@pytest.mark.parametrize("weight_format", ["float32", "w8g32"])
def test_mini_r1s_module_drafts_what_the_model_says(weight_format: str) -> None:
    """Over the reference thinking and answers of held-out items: the draft of token t + 2, made
    from h_t and token t + 1, is the model's own likeliest token there."""
    checkpoint = open_checkpoint(bundled.locate("mini-r1"))
    model = load_model(checkpoint, native.OPS, weight_format, drafter=True)  # type: ignore[arg-type]
    drafter = model.drafter
    assert drafter is not None
    tokenizer = Tokenizer.from_source(checkpoint.tokenizer_source)
    template = chat_template_for(checkpoint.tokenizer_source, "deepseek_v3")
    path = bundled_file()
    assert template is not None
    assert path is not None
    right = total = 0
    for item in choose([item for item in read_items(path) if item.split == "held_out"], 39):
        opening = template.prompt([{"role": "user", "content": item.prompt}], thinking=True)
        prompt = tokenizer.encode(opening, add_special_tokens=False)
        tokens = prompt + tokenizer.encode(
            f"{item.thinking}\n</think>\n\n{item.answer}", add_special_tokens=False
        )
        if len(tokens) > 512:
            continue
        rows, pages = np.arange(len(tokens) - 1), list(range(8))
        trunk = KVStore(model.kv_layout, 8, "float32")
        own = KVStore(drafter.kv_layout, 8, "float32")
        logits = model.forward(step_input([Chunk(0, tokens[:-1], 0, pages, False)], rows), trunk)
        said = logits.argmax(axis=-1)
        following = step_input([Chunk(0, tokens[1:], 0, pages, False)], rows)
        (guesses,), _ = drafter.draft(following, drafter.hidden(rows), 1, own)
        from_answer = slice(len(prompt) - 1, -1)
        right += int((guesses[from_answer] == said[len(prompt) :]).sum())
        total += len(said) - len(prompt)
    print(f"{right} of {total}: {right / total:.1%}")
    assert total > 500
    assert right / total >= 0.7
