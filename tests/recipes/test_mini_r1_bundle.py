"""What ships: the items are right and held out, the files are small, whole and as configured."""

import gzip
import json
from dataclasses import asdict
from hashlib import sha256

import pytest

from recipes.mini_r1 import shipped
from recipes.mini_r1 import tokenizer as mini_tokenizer
from recipes.mini_r1.check import verify
from recipes.mini_r1.generate import TASKS
from recipes.mini_r1.shape import Shape
from tribody.loading import bundled
from tribody.loading.checkpoint import open_checkpoint
from tribody.quality.held_out import bundled_file, is_right, read_items
from tribody.text.deepseek_templates import R1, known
from tribody.text.tokenizer import Tokenizer

ROOT = bundled.root()
MAX_BYTES = 25_000_000


@pytest.fixture(scope="module")
def items():
    path = bundled_file()
    assert path is not None
    return read_items(path)


def test_all_that_ships_is_under_25_mb() -> None:
    assert sum(file.stat().st_size for file in ROOT.rglob("*") if file.is_file()) <= MAX_BYTES


def test_every_file_is_the_one_in_the_list() -> None:
    lines = (ROOT / "SHA256SUMS").read_text().splitlines()
    stated = {name: digest for digest, name in (line.split("  ") for line in lines)}
    files = {
        str(file.relative_to(ROOT)): sha256(file.read_bytes()).hexdigest()
        for file in ROOT.rglob("*")
        if file.is_file() and file.suffix != ".md" and file.name != "SHA256SUMS"
    }
    assert files == stated


def test_the_card_names_the_checkpoints() -> None:
    card = (ROOT / "MODEL_CARD.md").read_text()
    for name in bundled.BUNDLED:
        assert sha256((ROOT / name / "model.safetensors").read_bytes()).hexdigest() in card


def test_the_items_are_enough_and_their_chains_of_thought_hold(items) -> None:
    held_out = [item for item in items if item.split == "held_out"]
    assert len(held_out) >= 3200
    assert {item.task for item in held_out} == {*TASKS, shipped.AT_LONGEST_TASK}
    for item in items:
        task = item.task.removesuffix(f" at {shipped.LONGEST}")
        assert verify(task, item.prompt, item.thinking, item.answer), item
        assert is_right(item, f" {item.answer}\n")
        assert not is_right(item, item.answer + "1")


def test_the_items_are_those_that_the_generator_holds_out() -> None:
    """Drawn again they are the same, and the generator never trains on what it holds out."""
    path = bundled_file()
    assert path is not None
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        assert [json.loads(line) for line in lines] == [asdict(item) for item in shipped.items()]


def test_the_longest_look_ups_have_at_least_1024_tokens(items) -> None:
    checkpoint = open_checkpoint(ROOT / "mini-r1")
    tokenizer = Tokenizer.from_source(checkpoint.tokenizer_source)
    longest = [item for item in items if item.task == shipped.AT_LONGEST_TASK]
    assert len(longest) == shipped.AT_LONGEST
    for item in longest:
        assert len(tokenizer.encode(item.prompt, add_special_tokens=False)) >= shipped.LONGEST


@pytest.mark.parametrize("name", bundled.BUNDLED)
def test_the_folders_are_ordinary_checkpoints(name: str) -> None:
    checkpoint = open_checkpoint(ROOT / name)
    config = dict(checkpoint.config)
    fp8 = config.pop("quantization_config", None)
    assert config == Shape().config() | {"bos_token_id": 0, "eos_token_id": 1}
    assert (fp8 is not None) == name.endswith("fp8")
    template = checkpoint.tokenizer_source.tokenizer_config["chat_template"]
    assert known(str(template)) == R1
    tokenizer = Tokenizer.from_source(checkpoint.tokenizer_source)
    assert tokenizer.vocab_size == Shape().vocab_size <= 2048
    for index, control in enumerate(mini_tokenizer.SPECIAL):
        assert tokenizer.encode(control, add_special_tokens=False) == [index]


def test_the_fp8_twin_holds_the_same_weights() -> None:
    """Within FP8's half step of 2^-4 of the value, or of the tile's smallest normal number."""
    plain, fp8 = (open_checkpoint(ROOT / name) for name in bundled.BUNDLED)
    assert set(plain.names()) == set(fp8.names())
    changed = 0
    for name in plain.names():
        exact, coarse = plain.read(name), fp8.read(name)
        difference = abs(exact - coarse)
        changed += bool(difference.any())
        assert (difference <= abs(exact) * 2**-4 + abs(exact).max() * 2**-6 / 448).all(), name
    assert changed > 100
