"""What is measured: names are unique and known, filters choose, every engine gets the same ids."""

import pytest

from cells import ALL, CELLS, PAIRINGS, TRANSFORMERS_CELLS, is_wanted, random_tokens


def test_names_are_unique_and_pairings_know_them() -> None:
    assert len(set(ALL)) == len(CELLS)
    for pairing in PAIRINGS:
        assert set(pairing.cells) <= set(ALL)
    assert set(TRANSFORMERS_CELLS) <= set(ALL)


def test_llama_runs_every_format_on_both_attention_paths() -> None:
    labels = [engine.label for engine in PAIRINGS[0].engines]
    assert labels == [
        "tribody w8g32",
        "llama.cpp Q8_0 flash",
        "llama.cpp Q8_0 no flash",
        "transformers float32",
        "transformers bfloat16",
    ]


def test_a_limited_pairing_is_another_one_without_transformers() -> None:
    pairing = PAIRINGS[0].limited_to("avx2")
    assert pairing.name == "8-bit, all on avx2"
    assert [engine.program for engine in pairing.engines] == ["tribody", "llama.cpp", "llama.cpp"]
    assert pairing.cells == PAIRINGS[0].cells


@pytest.mark.parametrize(
    ("patterns", "wanted"),
    [
        ([], True),
        (["decode-0"], True),
        (["decode-*"], True),
        (["dsv3-mini/decode-0"], True),
        (["dsv3-mini/*"], True),
        (["smollm2/decode-0"], False),
        (["decode-1024"], False),
        (["smollm2/*", "decode-0"], True),
    ],
)
def test_patterns_choose_models_and_cells(patterns, wanted) -> None:
    assert is_wanted("dsv3-mini", "decode-0", patterns) == wanted


def test_quick_cells_are_short_and_keep_their_names() -> None:
    for cell in CELLS:
        quick = cell.quick()
        assert (quick.name, quick.batch) == (cell.name, cell.batch)
        assert quick.depth <= 256
        assert quick.steps <= 8


def test_random_tokens_are_a_function_of_the_seed() -> None:
    assert random_tokens(100, 5, 1) == random_tokens(100, 5, 1)
    assert random_tokens(100, 50, 1) != random_tokens(100, 50, 2)
    assert all(0 <= token < 7 for token in random_tokens(7, 100, 3))
