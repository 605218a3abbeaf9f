from pathlib import Path

import numpy as np
import pytest

from models.errors import ArtefactError
from models.lexicon import Lexicon
from models.prosody import PROSODY_TOKENS
from models.score import ENDINGS, PAUSE, SHOWN, SILENT, SLOTS, Score, sounding
from models.tokenizer import EOS, PAD, Tokenizer

LOOK = 3
NOW = slice(SLOTS, 2 * SLOTS)  # of what is shown, the frame itself


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Words of a café, and sounds for two others."""
    spoken = {
        "a": "ɐ", "large": "lˈɑɹʤ", "latte": "lˈɑtˌA", "please": "plˈiz", "sure": "ʃˈʊɹ", "coming": "kˈʌmɪŋ",
        "up": "ˈʌp", "right": "ɹˈIt", "we": "wˌi", "don't": "dˈOnt", "anything": "ˈɛniθˌɪŋ", "else": "ˈɛls",
        "yes": "jˈɛs", "guarantee": "ɡˌɛɹəntˈi", "results": "ɹəzˈʌlts",
    }  # fmt: skip
    words = " ".join(word for word in spoken if word not in ("guarantee", "results"))
    sounds = [" ɡˌɛ", "ɹən", "tˈi", " ɹə", "zˈʌ", "lts"]
    return Tokenizer.train([words, words.title(), "I don't."], sounds=sounds, lexicon=Lexicon(spoken))


@pytest.fixture(scope="module")
def score(tokenizer: Tokenizer) -> Score:
    """What its pieces sound like."""
    return Score.of(tokenizer)


def stream(tokenizer: Tokenizer, text: str, gap: int = 2) -> list[int]:
    """The pieces of a text, every one followed by ``gap`` empty steps but prosody tokens."""
    row: list[int] = []
    for piece in tokenizer.spoken(text):
        row += [piece.token] + [PAD] * (gap if piece.text or not piece.begins else 0)
    return row


def heard(score: Score, row: list[int], frames: int) -> str:
    """The symbols of the frames, one of every run."""
    symbols, _ = sounding(row, score, LOOK, range(frames))
    line = symbols[:, NOW].ravel()
    runs = line[np.flatnonzero(np.diff(line, prepend=-1))]
    return " ".join(score.symbols[symbol] for symbol in runs if symbol != SILENT)


def acting(score: Score, row: list[int], token: str) -> list[int]:
    """The frames in which a token acts."""
    return np.flatnonzero(sounding(row, score, LOOK, range(len(row)))[1][:, PROSODY_TOKENS.index(token)]).tolist()


def test_every_word_and_sound_has_phones(tokenizer: Tokenizer, score: Score) -> None:
    """Words by the lexicon, sounds as they are written, with stress; marks, digits and symbols have none."""
    word = tokenizer.spoken(" latte")[0].token
    phones = [score.symbols[symbol] for symbol in score.phones[word]]
    assert "".join(phones) == tokenizer.lexicon.lookup("latte")
    sounds = [len(score.phones[piece.token]) for piece in tokenizer.spoken(" guarantee")]
    assert sounds == [2, 3, 2]
    silent = {tokenizer.written(token).strip() for token, phones in enumerate(score.phones) if not phones}
    assert all(len(text) < 2 or not text.isalpha() for text in silent)
    assert score.symbols[:2] == ("", "pause")


def test_phones_are_heard_in_order_over_their_time(tokenizer: Tokenizer, score: Score) -> None:
    """Each piece from the frame it stands at; nothing after the last phone's longest time."""
    row = stream(tokenizer, "a large latte")
    spoken = [score.symbols[symbol] for token in row for symbol in score.phones[token]]
    assert heard(score, [*row, *[PAD] * 20], len(row) + 20).split() == spoken
    symbols, _ = sounding([*row, *[PAD] * 20], score, LOOK, range(len(row) + 20))
    assert (symbols[-5:] == SILENT).all()
    for at, token in enumerate(row):
        if score.phones[token]:
            assert symbols[at, NOW][0] == score.phones[token][0]


def test_what_is_not_written_yet_is_not_known(tokenizer: Tokenizer, score: Score) -> None:
    """Frames made one at a time, as the text comes in, are those made from the whole text."""
    row = stream(tokenizer, "We <emph>guarantee results, <pitch_high>don't we?")
    whole = sounding(row, score, LOOK, range(len(row) - LOOK))
    for frame in range(len(row) - LOOK):
        symbols, now = sounding(row[: frame + LOOK + 1], score, LOOK, [frame])
        np.testing.assert_array_equal(symbols[0], whole[0][frame])
        np.testing.assert_array_equal(now[0], whole[1][frame])


def test_neighbours_are_shown(tokenizer: Tokenizer, score: Score) -> None:
    """The frame before and those after it are what they are in their own turn, once all ends are known."""
    row = stream(tokenizer, "Sure, a large latte coming right up.", gap=1)
    symbols, _ = sounding(row, score, 50, range(len(row)))
    shown = symbols.reshape(len(row), SHOWN, SLOTS)
    for later in (1, 2):
        np.testing.assert_array_equal(shown[:-later, 1 + later], shown[later:, 1])
    np.testing.assert_array_equal(shown[1:, 0], shown[:-1, 1])


def test_a_pause_lasts_until_the_next_word(tokenizer: Tokenizer, score: Score) -> None:
    """However long that is, within reason."""
    pause = tokenizer.spoken("<pause_long>")[0].token
    first, second = (tokenizer.spoken(word)[0].token for word in (" yes", " please"))
    row = [first, PAD, PAD, pause, *[PAD] * 8, second, *[PAD] * 6]
    line = sounding(row, score, LOOK, range(len(row)))[0][:, NOW]
    assert (line[3:12] == PAUSE).all()
    assert line[12, 0] == score.phones[second][0]


def test_tokens_act_on_their_scope(tokenizer: Tokenizer, score: Score) -> None:
    """Emphasis on one word, levels and glides until the phrase is over, its last word included."""
    row = stream(tokenizer, "<pitch_high>a <emph>large latte, please.")
    at = {tokenizer.written(token): index for index, token in enumerate(row)}
    assert acting(score, row, "<emph>") == list(range(at[" large"], at[" latte"]))
    assert acting(score, row, "<pitch_high>") == list(range(at[" please"]))
    changed = stream(tokenizer, "<pitch_high>a large <pitch_low>latte")
    low = changed.index(tokenizer.spoken("<pitch_low>")[0].token)
    assert acting(score, changed, "<pitch_high>") == list(range(low))
    assert acting(score, changed, "<pitch_low>") == list(range(low, len(changed)))
    falling = stream(tokenizer, "a large <pitch_falling>latte, please")
    glide = acting(score, falling, "<pitch_falling>")
    token = tokenizer.spoken("<pitch_falling>")[0].token
    assert glide == list(range(falling.index(token), at_word(falling, " please", tokenizer)))


def at_word(row: list[int], word: str, tokenizer: Tokenizer) -> int:
    """Where a word stands."""
    return row.index(tokenizer.spoken(word)[0].token)


def test_an_ending_is_known_as_early_as_its_mark(tokenizer: Tokenizer, score: Score) -> None:
    """A question sounds like one before its mark's own step, and the next sentence does not."""
    row = [*stream(tokenizer, "Anything else? Sure."), EOS]
    mark = row.index(tokenizer.spoken("else?")[-1].token)
    after = at_word(row, " Sure", tokenizer)
    question = sounding(row, score, LOOK, range(len(row)))[1][:, len(PROSODY_TOKENS) + ENDINGS.index("?")]
    assert np.flatnonzero(question).tolist() == list(range(mark - LOOK, after))


def test_a_score_is_read_as_it_was_written(score: Score, tmp_path: Path) -> None:
    """And a damaged one is named."""
    path = tmp_path / "score.json"
    score.save(path)
    assert Score.load(path) == score
    path.write_text(path.read_text("utf8").replace("[false,", "[", 1), "utf8")
    with pytest.raises(ArtefactError, match=r"score\.json"):
        Score.load(path)
