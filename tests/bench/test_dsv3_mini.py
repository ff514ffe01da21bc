"""The model with random weights: an ordinary folder, the same every time, and as GGUF the same."""

from contextlib import closing

import ml_dtypes
import numpy as np
import pytest

import dsv3_mini
from hf_folder import to_bf16, write_folder
from tests.models.tiny import CONFIGS
from tests.text.vocabularies import byte_level
from tribody.core.tokenizer_source import TokenizerSource
from tribody.loading.checkpoint import open_checkpoint
from tribody.models.config import read_config
from tribody.models.load import family_of
from tribody.text.tokenizer import Tokenizer

VOCABULARY = byte_level()
SOURCE = TokenizerSource(
    gguf_vocabulary=VOCABULARY, chat_template="{{ messages[0]['content'] }}", tokenizer_config={}
)
TINY = {name: value for name, value in CONFIGS["v3-q-lora"].items() if name != "rope_scaling"} | {
    "vocab_size": len(VOCABULARY.tokens),
    "dtype": "bfloat16",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny"
    write_folder(path, SOURCE, TINY, dsv3_mini.tensor)
    return path


def test_bf16_is_rounded_to_nearest_even() -> None:
    values = np.random.default_rng(1).standard_normal(10_000, dtype=np.float32)
    ties = np.array([0x3F808000, 0x3F818000, 0xBF808000], np.uint32).view(np.float32)
    values = np.concatenate([values, ties])
    expected = values.astype(ml_dtypes.bfloat16).view(np.uint16)
    assert (to_bf16(values) == expected).all()


def test_the_folder_is_an_ordinary_checkpoint(folder) -> None:
    config = read_config(TINY)
    with closing(open_checkpoint(folder)) as checkpoint:
        assert checkpoint.config == TINY
        shapes = dict(family_of(config).tensor_shapes(config))
        assert {name: checkpoint.shape(name) for name in checkpoint.names()} == shapes
        norm = checkpoint.read("model.norm.weight")
        assert (norm == 1).all()
        weights = checkpoint.read("model.embed_tokens.weight")
        assert weights.std() == pytest.approx(0.02, rel=0.05)
        assert checkpoint.tokenizer_source.chat_template == SOURCE.chat_template
        tokenizer = Tokenizer.from_source(checkpoint.tokenizer_source)
    text = "the thing <think>"
    ours = Tokenizer.from_source(SOURCE)
    encoded = [t.encode(text, add_special_tokens=False) for t in (tokenizer, ours)]
    assert encoded[0] == encoded[1]
    assert tokenizer.eos_token_ids <= ours.eos_token_ids


def test_it_is_the_same_every_time(folder, tmp_path) -> None:
    write_folder(tmp_path / "again", SOURCE, TINY, dsv3_mini.tensor)
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
    assert dsv3_mini.content_id(TINY) != dsv3_mini.content_id(dsv3_mini.CONFIG)


@pytest.mark.parity
def test_the_gguf_file_holds_the_same(folder, tmp_path) -> None:
    """Written with llama.cpp's package, read by tribody, which knows files of its converter."""
    pytest.importorskip("gguf")
    import to_gguf

    target = tmp_path / "tiny.gguf"
    with closing(open_checkpoint(folder)) as checkpoint:
        to_gguf.write_gguf(checkpoint, SOURCE, target)
        with closing(open_checkpoint(target)) as written:
            ours, theirs = read_config(checkpoint.config), read_config(written.config)
            for field in ours.__slots__:
                if field not in ("unknown_keys", "eos_token_ids"):
                    assert getattr(ours, field) == getattr(theirs, field), field
            assert set(written.names()) == set(checkpoint.names())
            for name in checkpoint.names():
                expected = checkpoint.read(name)
                if expected.ndim == 2 and not name.endswith("mlp.gate.weight"):
                    expected = expected.astype(np.float16).astype(np.float32)
                assert np.array_equal(written.read(name), expected), name
            assert written.tokenizer_source.gguf_vocabulary == VOCABULARY
