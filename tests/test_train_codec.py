import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from models.checkpoint import load_weights
from models.codec import AcousticEncoder, Decoder, SemanticEncoder
from models.errors import ArtefactError
from models.features import SAMPLE_RATE
from models.speech_embedding import EMBEDDING_DIM
from tests.tiny import CODEC, run_main, speech_like, tokenizer
from training import train_acoustic, train_semantic
from training.audio_data import make_clip
from training.losses import SpectralLoss
from training.phones import PHONES
from training.semantic_batches import collate
from training.train_acoustic import AcousticHalf, Source, draw_batch, parse_source
from training.train_codec import StageError, stage_commands, start, wait
from training.train_semantic import (
    SemanticTrainee,
    evaluate,
    load_examples,
    objectives,
    set_statistics,
    spoken_phones,
)
from training.user_features import UNKNOWN_PHONE, UserFeatures, save_features

CONFIG = """codec:
  semantic_levels: [[8, 5, 5, 5], [8, 5, 5, 5]]
  acoustic_levels: [[8, 5, 5, 5], [8, 5, 5, 5]]
  semantic_dim: 16
  encoder_dim: 16
  decoder_dim: 16
  context_dim: 16
"""
WORDS = ["large", "latte", "soy", "milk"]


def _features(seed: int, words: list[str]) -> UserFeatures:
    """A turn whose words sound different from each other, four frames each."""
    sounds = np.random.default_rng(0).standard_normal((len(WORDS), EMBEDDING_DIM)) * 3
    noise = np.random.default_rng(seed).standard_normal((4 * len(words) + 8, EMBEDDING_DIM)) * 0.1
    phones = np.full(4 * len(noise), UNKNOWN_PHONE, np.uint8)
    for index, word in enumerate(words):
        noise[4 + 4 * index : 7 + 4 * index] += sounds[WORDS.index(word)]
        phones[16 * (1 + index) : 16 * (2 + index)] = WORDS.index(word)
    return UserFeatures(noise.astype(np.float16), phones, " ".join(words), 4.0, 4.0 + 4 * len(words), [])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """User features, a tokenizer, a configuration and a folder of sound."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "features").mkdir()
    for seed in range(12):
        words = list(np.random.default_rng(seed).permutation(WORDS)[:3])
        split = "valid" if seed < 2 else "train"
        kind = "recording" if seed in (0, 2) else "conversation"
        save_features(folder / "features" / f"{seed}.npz", [_features(seed, words)], {"split": split, "kind": kind})
    (folder / "codec.yaml").write_text(CONFIG)
    (folder / "audio" / "conv_1").mkdir(parents=True)
    for seed in range(2):
        soundfile.write(folder / "audio" / "conv_1" / f"{seed}.wav", speech_like(2.4, seed), 24_000)
    return folder


def _codec(data: Path, tmp_path: Path) -> Path:
    (tmp_path / "codec").mkdir()
    tokenizer().save(tmp_path / "codec" / "tokenizer.json")
    return tmp_path / "codec"


def test_semantic_half_learns_its_words(data: Path) -> None:
    """Losses fall, and after some steps the quantised codes alone spell what was said."""
    torch.manual_seed(0)
    splits, classes = load_examples([data / "features"], tokenizer())
    assert classes == 1 + len(WORDS)
    examples = splits["train"]
    trainee = SemanticTrainee(CODEC, classes)
    set_statistics(trainee.encoder, examples)
    optimizer = torch.optim.AdamW(trainee.parameters(), lr=1e-2)
    rng = np.random.default_rng(0)
    first = objectives(trainee, collate(examples, rng), False)
    for step in range(100):
        losses = objectives(trainee, collate(examples, rng), step > 30)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(trainee.parameters(), 1.0)
        optimizer.step()
    assert losses["ctc"] < 0.3 * first["ctc"]
    assert losses["phone"] < 0.5 * first["phone"]
    scores = evaluate(trainee, examples)
    assert scores["wer"] < 0.4
    assert scores["phone_acc"] > 0.6
    assert scores["active_acc"] > 0.8
    assert trainee.training


def test_examples_are_split_by_kind(data: Path, tmp_path: Path) -> None:
    """People, and people who are held out, are sets of their own; of a spelled word only the phones are asked for."""
    pieces = tokenizer()
    splits, _ = load_examples([data / "features"], pieces)
    sizes = {name: len(part) for name, part in splits.items()}
    assert sizes == {"train": 9, "people_train": 1, "valid": 1, "people": 1}
    odd = UserFeatures(np.zeros((20, EMBEDDING_DIM), np.float16), np.zeros(80, np.uint8), "large zebra", 0.0, 9.0, [])
    save_features(tmp_path / "odd.npz", [odd], {"split": "train", "kind": "recording"})
    (example,) = load_examples([tmp_path], pieces)[0]["people_train"]
    assert example.words == []
    assert example.spoken
    (example,) = load_examples([tmp_path], pieces, frozenset({"large"}))[0]["people_train"]
    assert example.words == []
    save_features(tmp_path / "valid.npz", [_features(0, ["latte"])], {"split": "valid", "kind": "conversation"})
    (example,) = load_examples([tmp_path], pieces)[0]["valid"]
    assert example.words == []  # a word that training never hears


def test_phones_come_from_times_or_from_the_dictionary() -> None:
    """Synthetic turns repeat what was spoken, silence left out; recordings are looked up; unknown words give none."""
    silence, k, ae = (PHONES.index(name) for name in ("SIL", "K", "AE"))
    timed = np.array([silence, silence, k, k, ae, silence, k, silence], np.uint8)
    unknown = np.full(8, UNKNOWN_PHONE, np.uint8)

    def turn(phones: np.ndarray, text: str) -> UserFeatures:
        return UserFeatures(np.zeros((2, EMBEDDING_DIM), np.float16), phones, text, 0.0, 2.0, [])

    assert spoken_phones(turn(timed, "whatever")) == (k, ae, k)
    assert [PHONES[phone] for phone in spoken_phones(turn(unknown, "a cat"))] == ["AH", "K", "AE", "T"]
    assert spoken_phones(turn(unknown, "a xqzt")) == ()


def test_phones_are_asked_for_late_and_speech_at_once(data: Path) -> None:
    """Two frames, so that what follows a phone has been heard; whether anybody speaks cannot wait."""
    example = load_examples([data / "features"], tokenizer())[0]["train"][0]
    _, phones, lengths, words, spoken, now = collate([example], None)
    np.testing.assert_array_equal(phones[0, 8:], example.phones[:-8])
    np.testing.assert_array_equal(now[0], example.phones)
    assert (phones[0, :8] == UNKNOWN_PHONE).all()
    assert lengths.tolist() == [len(example.embedding)]
    assert words == [example.words]
    assert spoken == [example.spoken]


def test_semantic_training_resumes(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A second command goes on, a third finds nothing to do (it once crashed) and writes the same weights."""
    codec = _codec(data, tmp_path)

    def run(steps: int) -> torch.Tensor:
        flags = ["--features", data / "features", "--output", codec, "--config", data / "codec.yaml", "--minutes", 0]
        run_main(train_semantic.main, *flags, "--steps", steps, "--batch", 4)
        net = SemanticEncoder(CODEC)
        load_weights(net, codec, "semantic")
        return net.leave.weight

    first = run(2)
    second = run(4)
    assert not torch.equal(first, second)
    assert torch.equal(run(4), second)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if "valid_wer" in line] == ["2", "4", "4"]


def test_acoustic_half_learns_a_sound() -> None:
    """Spectral, mel and pitch losses fall on one clip."""
    torch.manual_seed(0)
    half, spectral = AcousticHalf(CODEC), SpectralLoss()
    source = Source("agent", 1.0, [make_clip(speech_like(1.6))])
    optimizer = torch.optim.AdamW(half.parameters(), lr=3e-3)
    history = []
    for _ in range(50):
        (pcm, mel, pitch, held), _ = draw_batch([source], 2, 12, np.random.default_rng(0))
        audio, losses = half(mel, pitch, held, True)
        losses |= spectral(audio[:, 240:], pcm[:, :-240])
        optimizer.zero_grad()
        total = losses["stft"] + 2 * losses["mel"] + losses["f0"] + losses["voicing"]
        total.backward()
        optimizer.step()
        history.append({name: value.item() for name, value in losses.items()})
    for name, share in (("stft", 0.8), ("mel", 0.7), ("f0", 0.8), ("voicing", 0.8)):
        assert history[-1][name] < share * history[0][name], name


def _levels(codec: Path, pcm: np.ndarray) -> torch.Tensor:
    """Of every dimension of a clip's codes, [frames, dims]."""
    encoder = AcousticEncoder(CODEC).eval()
    load_weights(encoder, codec, "acoustic")
    clip = make_clip(pcm)
    mel, pitch = (torch.from_numpy(part.astype(np.float32))[None] for part in (clip.mel64, clip.pitch))
    with torch.inference_mode():
        return encoder.fsq.to_indices(encoder(mel, pitch, encoder.init_state(1))[0])[0].float()


def test_codes_of_a_kept_source_stay_while_others_move(data: Path, tmp_path: Path) -> None:
    """What a talker has learnt to say keeps its codes; without ``--keep`` the same training changes them."""
    where = ["--config", data / "codec.yaml", "--minutes", 0, "--batch", 4, "--frames", 8, "--lr", 0.003]
    agent, other = tmp_path / "agent", tmp_path / "other"
    for folder, seed in ((agent, 3), (other, 4)):
        folder.mkdir()
        soundfile.write(folder / "a.wav", speech_like(1.6, seed), SAMPLE_RATE)
    sources = ["--audio", f"agent={agent}", "--audio", f"other={other}"]
    run_main(train_acoustic.main, *where, *sources, "--steps", 2, "--output", tmp_path / "first")
    go_on = [*where, *sources, "--steps", 60, "--init", tmp_path / "first"]
    run_main(train_acoustic.main, *go_on, "--output", tmp_path / "moved")
    run_main(train_acoustic.main, *go_on, "--output", tmp_path / "kept", "--keep", f"agent={tmp_path}/first")

    def moved(codec: str, seed: int) -> float:
        pcm = speech_like(1.6, seed)
        return (_levels(tmp_path / codec, pcm) - _levels(tmp_path / "first", pcm)).abs().mean().item()

    assert moved("kept", 3) < 0.5 * moved("moved", 3)
    assert moved("kept", 4) > 0.0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--keep", "agent"), "--keep must be NAME=CODEC, got 'agent'"),
        (("--frames", 7), "--frames must be at least 8, got 7"),
    ],
)
def test_acoustic_training_refuses_what_it_cannot_do(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[object, ...], said: str
) -> None:
    with pytest.raises(SystemExit):
        run_main(train_acoustic.main, "--audio", f"agent={data}/audio", "--output", tmp_path / "codec", *flags)
    assert said in capsys.readouterr().err


def test_what_is_kept_is_a_source(data: Path, tmp_path: Path) -> None:
    where = ["--audio", f"agent={data}/audio", "--config", data / "codec.yaml", "--minutes", 0, "--steps", 1]
    with pytest.raises(ValueError, match="--keep human=codec: no --audio is called 'human'"):
        run_main(train_acoustic.main, *where, "--output", tmp_path / "codec", "--keep", "human=codec")
    with pytest.raises(ArtefactError, match="nowhere"):
        run_main(train_acoustic.main, *where, "--output", tmp_path / "codec", "--keep", f"agent={tmp_path}/nowhere")


def test_acoustic_training_resumes(data: Path, tmp_path: Path) -> None:
    """As the semantic half; ``--decoder_only`` from its state leaves the encoder alone."""

    def run(codec: Path, *flags: object) -> tuple[torch.Tensor, torch.Tensor]:
        where = ["--audio", f"agent={data}/audio", "--output", codec, "--config", data / "codec.yaml", "--minutes", 0]
        run_main(train_acoustic.main, *where, "--batch", 2, "--frames", 8, *flags)
        encoder, decoder = AcousticEncoder(CODEC), Decoder(CODEC)
        load_weights(encoder, codec, "acoustic")
        load_weights(decoder, codec, "decoder")
        return encoder.leave.weight, decoder.head.weight

    first = run(tmp_path / "codec", "--steps", 2)
    second = run(tmp_path / "codec", "--steps", 3)
    assert not torch.equal(first[0], second[0])
    assert torch.equal(run(tmp_path / "codec", "--steps", 3)[0], second[0])
    fitted = run(tmp_path / "fitted", "--steps", 2, "--decoder_only", "--init", tmp_path / "codec")
    assert torch.equal(fitted[0], second[0])
    assert not torch.equal(fitted[1], second[1])


def test_sources_are_folders_or_patterns(data: Path) -> None:
    """``NAME=DIR``, with a weight, and with a pattern."""
    source = parse_source(f"agent={data}/audio:0.25", 60.0, 0)
    assert (source.name, source.weight, len(source.clips)) == ("agent", 0.25, 2)
    assert len(parse_source(f"a={data}/audio/*/1.wav", 60.0, 0).clips) == 1
    assert len(parse_source(f"a={data}/audio", 0.1, 0).clips) == 1
    with pytest.raises(ValueError, match="no audio files"):
        parse_source(f"a={data}/features", 60.0, 0)


def test_a_text_file_is_a_source_that_is_spoken(tmp_path: Path) -> None:
    """As long as is asked for, with its prosody tokens; a wrong one is named."""
    lines = tmp_path / "lines.txt"
    lines.write_text("a latte\n\na <pause_long>latte\nsure\n", "utf8")
    source = parse_source(f"agent={lines}:0.3", 60.0, 0, "hibari:heart")
    assert (source.name, source.weight, len(source.clips)) == ("agent", 0.3, 3)
    assert len(source.clips[1].pcm) - len(source.clips[0].pcm) > 0.5 * 24_000
    assert len(parse_source(f"agent={lines}", 0.1, 0, "hibari:heart").clips) == 1
    lines.write_text("a latte\na <pitch>latte\n", "utf8")
    with pytest.raises(ValueError, match=r"lines\.txt:2: unknown prosody tag <pitch>"):
        parse_source(f"agent={lines}", 60.0, 0, "hibari:heart")


def test_gain_changes_sound_and_analysis_alike() -> None:
    """Other people's recordings get a random gain: features are those of the louder or softer sound."""
    clip = make_clip(speech_like(1.6))
    (pcm, mel, pitch, _), _ = draw_batch([Source("human", 1.0, [clip])], 1, 20, np.random.default_rng(1))
    again = make_clip(pcm[0].numpy())
    heard = again.mel64 > -5  # nearer to the floor the gain lifts the floor too
    np.testing.assert_allclose(mel[0].numpy()[heard], again.mel64[heard].astype(np.float32), atol=0.03)
    loud = again.pitch[:, 2] > -4
    np.testing.assert_allclose(pitch[0].numpy()[loud, 2], again.pitch[loud, 2].astype(np.float32), atol=0.03)


def test_stages_get_their_flags(tmp_path: Path) -> None:
    """Tokenizer and features first, then both halves with the same budget."""
    args = argparse.Namespace(
        config=Path("c.yaml"), noise_dir=Path("noise"), rooms_dir=None, domain=Path("d.yaml"),
        recordings=[Path("people")], open_text=[Path("t.txt")], output=tmp_path, data_dir=Path("data"),
        audio=["human=speech:0.2"], minutes=3.0, steps=5, workers=1,
    )  # fmt: skip
    first, together = stage_commands(args)
    assert [command[0] for command in first] == ["training.train_tokenizer", "training.user_features"]
    assert [command[0] for command in together] == ["training.train_semantic", "training.train_acoustic"]
    assert first[0][-4:] == ["--domain", "d.yaml", "--open_text", "t.txt"]
    assert together[0][together[0].index("--domain") + 1] == "d.yaml"
    assert "--noise_dir" in first[1]
    assert "--rooms_dir" not in first[1]
    assert "--audio=human=speech:0.2" in together[1]
    for command in together:
        assert command[command.index("--minutes") + 1] == "3.0"
        assert command[-2:] == ["--config", "c.yaml"]


def test_a_failing_stage_stops_the_other(capfd: pytest.CaptureFixture[str]) -> None:
    """The error names the stage; the one that still runs is ended."""
    failing = start(["training.train_tokenizer", "--nonsense"])
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    with pytest.raises(StageError, match=r"training\.x failed with exit status 2"):
        wait([(["training.x"], failing), (["training.y"], sleeper)])
    assert sleeper.wait(10) != 0
    assert "usage" in capfd.readouterr().err
