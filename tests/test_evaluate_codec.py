import json
import shutil
from pathlib import Path

import numpy as np
import pocketsphinx
import pytest
import soundfile

from models.checkpoint import save_model
from models.features import FRAME_SIZE
from tests.tiny import CODEC, new_codec, speech_like
from training.audio_data import read_audio
from training.codec_metrics import common_delay
from training.evaluate_codec import Listeners, RoundTrip, code_usage, main, more, summarise, to_metric_rate
from training.intelligibility import hear

TEXT = "Can I get a large latte, please?"


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The parts of a toy codec that are measured."""
    folder, net = tmp_path_factory.mktemp("codec"), new_codec()
    save_model(folder, "repartee-codec", net.acoustic, CODEC, {}, "acoustic")
    save_model(folder, "repartee-codec", net.decoder, CODEC, {}, "decoder")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "voices"
    folder.mkdir()
    for seed in range(2):
        soundfile.write(folder / f"{seed}.wav", speech_like(2.0, seed), 24_000)
        (folder / f"{seed}.txt").write_text(TEXT)
    return folder


def test_round_trip_keeps_length_and_is_causal(codec: Path) -> None:
    """As many samples come back as went in, a code set for every frame begun, and the future changes neither."""
    trip, pcm = RoundTrip(codec), speech_like(2.0)
    cut = pcm[: 10 * FRAME_SIZE + 7]
    whole, codes = trip(pcm)
    part, part_codes = trip(cut)
    assert whole.shape == pcm.shape and part.shape == cut.shape
    assert codes.shape == (len(pcm) // FRAME_SIZE, 3) and part_codes.shape == (11, 3)
    np.testing.assert_array_equal(codes[:10], part_codes[:10])
    same = 9 * FRAME_SIZE
    np.testing.assert_allclose(whole[:same], part[:same], atol=1e-4)
    assert whole.std() > 0


def test_bit_rate_is_that_of_the_decoders_codes(codec: Path) -> None:
    """One prosody code of 3375 and two acoustic codes of 1000, 12.5 times a second."""
    trip = RoundTrip(codec)
    assert trip.sizes == [3375, 1000, 1000]
    assert trip.bits_per_s == pytest.approx(12.5 * (np.log2(3375) + 2 * np.log2(1000)))


@pytest.mark.shipped
def test_shipped_codec_is_in_step_with_its_input(shipped_models: Path, repo_root: Path) -> None:
    """Decoded speech is neither early nor late, so frames can be compared without any alignment."""
    question = read_audio(repo_root / "tests" / "data" / "question.wav")
    made, _ = RoundTrip(shipped_models / "codec")(question)
    assert abs(common_delay([to_metric_rate(question)], [to_metric_rate(made)])) <= 0.003


def test_usage_is_counted_per_code() -> None:
    """Perplexity of each column over its size."""
    codes = np.stack([np.arange(100) % 4, np.zeros(100, np.int64)], axis=1)
    usage = code_usage(codes, [8, 1000])
    assert usage["frames"] == 100
    assert [(code["perplexity"], code["share"]) for code in usage["codes"]] == [(4.0, 0.5), (1.0, 0.001)]


def test_unknown_scores_are_left_out_and_words_are_summed() -> None:
    """A mean is over the clips that have the measure; word errors are per word, not per clip."""
    rates = summarise({"stoi": [0.5, None, 1.0], "words": [1.0, None, 3.0], "dnsmos": [None] * 3}, [2, 5, 8])
    assert rates["stoi"].value == 0.75 and rates["stoi"].count == 2
    assert rates["words"].value == 0.4 and rates["words"].count == 10
    assert "dnsmos" not in rates


def test_words_are_counted_where_the_text_is_known(repo_root: Path) -> None:
    """Two of the words heard, said to be others, are two errors; without a text there is no score."""
    clip = to_metric_rate(read_audio(repo_root / "tests" / "data" / "question.wav"))
    heard = hear(pocketsphinx.Decoder(samprate=16_000.0, loglevel="FATAL"), clip)
    assert len(heard) > 3
    other = " ".join(["zebra", "zebra", *heard[2:]])
    assert Listeners(words=True, dnsmos=False).judge([clip, clip[:0]], [other, None]) == {"words": [2, None]}
    assert Listeners(words=True, dnsmos=False).judge([clip], [None]) == {}


def test_difference_is_known_where_both_scores_are() -> None:
    """Word errors of the decoded clip less those of the original."""
    assert more([3.0, None, 2.0], [1.0, 1.0, None]) == [2.0, None, None]


def test_command_measures_and_writes(
    codec: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One table a set; every figure and every clip in the file."""
    path = tmp_path / "new" / "codec.json"
    flags = ["--codec", str(codec), "--data", f"toy={data}", "--voices", str(data), "--limit", "2"]
    assert main([*flags, "--json", str(path)]) == 0
    out = capsys.readouterr().out
    assert "== toy: 2 clips, 4 s (all clips)" in out and "== voices: 2 clips" in out
    report = json.loads(path.read_text())
    result = report["sets"]["toy"]
    assert set(report["sets"]) == {"toy", "voices"}
    assert "--voices" in report["command"]
    ours = result["rows"]["codec"]
    assert ours["kbps"]["value"] == pytest.approx(0.3957, abs=1e-4)
    assert 0.0 <= ours["stoi"]["low"] <= ours["stoi"]["value"] <= ours["stoi"]["high"] < 0.9  # random weights
    assert result["clips"]["name"] and len(result["clips"]["codec"]["mel_db"]) == 2
    assert result["usage"]["frames"] == 2 * (len(speech_like(2.0)) // FRAME_SIZE)


def test_missing_programs_are_noted(
    codec: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without Opus and Codec2 their columns are missing, with a line that says which packages have them."""
    monkeypatch.setenv("PATH", "")
    assert main(["--codec", str(codec), "--data", str(data), "--limit", "1"]) == 0
    out = capsys.readouterr().out
    assert "opus-6k is left out: opusenc, opusdec not found (Debian package opus-tools)" in out
    assert "codec2-3200" not in out.split("perplexity")[0]


def test_bad_input_is_an_error_that_says_what(
    codec: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A codec without weights, a folder that is not there, two sets of one name, no set at all."""
    assert main(["--codec", str(tmp_path), "--data", str(data)]) == 2
    assert "acoustic.json: cannot be read" in capsys.readouterr().err
    shutil.copytree(codec, tmp_path / "half")
    (tmp_path / "half" / "decoder.safetensors").write_bytes(b"cut")
    assert main(["--codec", str(tmp_path / "half"), "--data", str(data)]) == 2
    assert "decoder.safetensors: cannot be loaded" in capsys.readouterr().err
    assert main(["--codec", str(codec), "--data", str(tmp_path / "none")]) == 2
    assert "no audio files" in capsys.readouterr().err
    one = ["--codec", str(codec), "--limit", "1", "--data", f"x={data}"]
    assert main([*one, "--data", f"x={data}"]) == 2
    assert "a data set x already" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--codec", str(codec)])
