"""Misheard openings lose nothing that counts, and blurred codes stay close."""

import dataclasses
import random
from pathlib import Path

import numpy as np
import pytest

from training.domain import Domain, load_domain
from training.encode_dataset import EncodedTurn
from training.mishearing import blur_codes, loose_opening, mishear_opening, mishear_words

LEVELS = ((8, 5, 5, 5), (3, 3))


@pytest.fixture(scope="module")
def domain(repo_root: Path) -> Domain:
    return load_domain(repo_root / "configs" / "domains" / "coffee.yaml")


@pytest.mark.parametrize(
    ("text", "loose"),
    [
        ("can i get a large latte", 4),
        ("large latte", 0),
        ("remove the latte", 0),
        ("thank you very much", 0),
        ("the weather is nice", 0),
        ("give me two numbers", 0),
    ],
)
def test_only_an_opening_of_an_order_is_loose(domain: Domain, text: str, loose: int) -> None:
    """Words that name, change or ask for something must be heard."""
    assert loose_opening(domain, text) == loose


def test_misheard_words_mean_the_same(domain: Domain) -> None:
    """Whatever replaces the opening, the turn means what it meant; some turns do change."""
    rng, source = np.random.default_rng(0), random.Random(0)
    others = [*sorted(domain.vocabulary), *["…"] * len(domain.vocabulary)]
    texts = [turn.user_text for _ in range(40) for turn in domain.sample_dialogue(source, 6)]
    changed = [(text, mishear_words(domain, text, others, rng)) for text in texts]
    assert all(domain.parse_user(misheard) == domain.parse_user(text) for text, misheard in changed)
    assert sum(text != misheard for text, misheard in changed) > len(texts) / 10
    assert any("…" in misheard for _, misheard in changed)


def test_a_misheard_opening_leaves_the_rest_alone() -> None:
    """Only frames and words of the opening change; the words are unknown ones at the same frames."""
    user = np.arange(60, dtype=np.uint16).reshape(30, 2)
    words = [([20], 9.2), ([21], 13.0), ([22, 23], 21.5)]
    turn = EncodedTurn(user, (5.5, 21.5), words, np.zeros((4, 3), np.uint16), [], "", loose=2)
    counts = set()
    for seed in range(20):
        made = mishear_opening(turn, [7], np.random.default_rng(seed))
        count = sum(ids == [7] for ids, _ in made.user_words)
        counts.add(count)
        end = (10, 13)[count - 1]
        assert [frame for _, frame in made.user_words] == [frame for _, frame in words]
        assert made.user_words[count:] == words[count:]
        np.testing.assert_array_equal(made.user[end:], user[end:])
        np.testing.assert_array_equal(made.user[:5], user[:5])
        assert (made.user[5:end] != user[5:end]).any()
    assert counts == {1, 2}
    assert turn.user is user and dataclasses.replace(turn) == turn


def test_blurred_codes_move_one_level_at_most() -> None:
    """A few dimensions go one level up or down, and stay in range."""
    rng = np.random.default_rng(1)
    codes = np.stack([rng.integers(0, 1000, 4000), rng.integers(0, 9, 4000)], axis=1).astype(np.uint16)
    made = blur_codes(codes, LEVELS, rng)
    assert made.dtype == codes.dtype
    for group, sizes in enumerate(LEVELS):
        before, after = codes[:, group].astype(int), made[:, group].astype(int)
        for size in sizes:
            assert np.abs(before % size - after % size).max() == 1
            assert 0.01 < np.mean(before % size != after % size) < 0.06
            before, after = before // size, after // size
        assert not before.any()
        assert not after.any()
