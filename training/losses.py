"""Metric losses of the codec: spectra, mel, what speech_embedding hears, intelligibility, pitch."""

import torch
from torch import Tensor
from torch.nn import functional as F

from models.checkpoint import load_weights
from models.features import FFT_SIZE, HOP, HOPS_PER_FRAME, N_BINS, mel32_filters, mel_bank
from models.speech_embedding import SpeechEmbedding
from training.user_features import FRONT_END

RESOLUTIONS = (256, 512, 1024, 2048)
LEAST_DEVIATION = 0.1
STOI_BANDS, STOI_LOWEST_HZ = 15, 150.0  # thirds of an octave
STOI_FRAME_S, STOI_SPAN = 0.0256, 30  # frames overlap by half; a span is 384 ms
STOI_CLIP_DB, STOI_SPEECH_DB = -15.0, -40.0


class SpectralLoss(torch.nn.Module):
    """Log and linear magnitude error at several resolutions plus mel error (Yamamoto et al., 1910.11480)."""

    def __init__(self, sample_rate: int = 24_000) -> None:
        super().__init__()
        for size in RESOLUTIONS:
            self.register_buffer(f"window_{size}", torch.hann_window(size), persistent=False)
        bank = mel_bank(80, 40.0, 11_500.0, n_bins=1024 // 2 + 1, bin_hz=sample_rate / 1024)
        self.register_buffer("bank", torch.from_numpy(bank / bank.sum(0, keepdims=True).clip(1e-6)), persistent=False)

    def forward(self, made: Tensor, true: Tensor) -> dict[str, Tensor]:
        """Waveforms [B, N] -> {"stft", "mel"}, mean log-magnitude errors in nepers (stft also holds convergence)."""
        total = made.new_zeros(())
        mel = made.new_zeros(())
        for size in RESOLUTIONS:
            window = getattr(self, f"window_{size}")
            spectra = torch.stft(
                torch.cat([made, true]), size, size // 4, window=window, center=False, return_complex=True
            )
            power = (spectra.real.square() + spectra.imag.square()) / window.sum().square()
            made_log, true_log = (0.5 * torch.log(power + 1e-9)).chunk(2)
            made_mag, true_mag = torch.sqrt(power + 1e-12).chunk(2)
            total = total + F.l1_loss(made_log, true_log)
            total = total + (made_mag - true_mag).norm() / true_mag.norm().clamp_min(1e-3)
            if size == 1024:
                made_mel, true_mel = torch.log(power.transpose(1, 2) @ self.bank + 1e-9).chunk(2)
                mel = 0.5 * F.l1_loss(made_mel, true_mel)
        return {"stft": total / len(RESOLUTIONS), "mel": mel}


class HearingLoss(torch.nn.Module):
    """How differently Google's speech_embedding hears two sounds: what tells words apart weighs most in it.

    (Losses in the features of a trained network: Johnson et al., arXiv 1603.08155; for speech, Germain et al.,
    arXiv 1806.10522.)
    """

    window: Tensor
    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.net = SpeechEmbedding().requires_grad_(False).eval()
        load_weights(self.net, FRONT_END)
        window, filters = mel32_filters()
        self.register_buffer("window", torch.from_numpy(window), persistent=False)
        self.register_buffer("filters", torch.from_numpy(filters), persistent=False)

    def mel(self, audio: Tensor) -> Tensor:
        """Waveforms [B, N] -> mel32 [B, T, 32] as :func:`models.features.analyse_mel32` has it, without a past."""
        spectra = torch.stft(audio, FFT_SIZE, HOP, window=self.window, center=False, return_complex=True)[:, :N_BINS]
        power = (spectra.real.square() + spectra.imag.square()).transpose(1, 2)
        return torch.log10((power @ self.filters).clamp_min(1.0)) + 2.0

    def forward(self, made: Tensor, true: Tensor) -> Tensor:
        """Waveforms [B, N] of at least a frame -> the mean difference, in deviations of what is heard in ``true``."""
        mel = self.mel(torch.cat([made, true]))
        mel = mel[:, : mel.shape[1] // HOPS_PER_FRAME * HOPS_PER_FRAME]
        heard, _ = self.net(mel, [part.to(mel.device) for part in self.net.init_state(len(mel))])
        ours, theirs = heard.chunk(2)
        return ((ours - theirs).abs().mean((0, 1)) / theirs.std((0, 1)).clamp_min(LEAST_DEVIATION)).mean()


def third_octaves(fft_size: int, sample_rate: int, count: int) -> Tensor:
    """Which bins belong to which third of an octave, from STOI_LOWEST_HZ on: 0 or 1, [fft_size / 2 + 1, count]."""
    hz = torch.fft.rfftfreq(fft_size, 1.0 / sample_rate)
    middle = STOI_LOWEST_HZ * 2.0 ** (torch.arange(count) / 3.0)
    return ((hz[:, None] >= middle * 2.0 ** (-1 / 6)) & (hz[:, None] < middle * 2.0 ** (1 / 6))).float()


class IntelligibilityLoss(torch.nn.Module):
    """What short-time objective intelligibility lacks (STOI: Taal et al., IEEE TASLP 19 (7), 2011).

    As a loss: Kolbaek et al., IEEE/ACM TASLP 28, 2020. It is taken at the rate of the sound, and frames without speech
    are left out of the spectra, not of the sound.
    """

    window: Tensor
    bands: Tensor

    def __init__(self, sample_rate: int = 24_000) -> None:
        super().__init__()
        self.hop = round(STOI_FRAME_S * sample_rate / 2)
        self.register_buffer("window", torch.hann_window(2 * self.hop), persistent=False)
        self.register_buffer("bands", third_octaves(4 * self.hop, sample_rate, STOI_BANDS), persistent=False)

    def forward(self, made: Tensor, true: Tensor) -> Tensor:
        """Waveforms [B, N] -> 0 where band levels rise and fall together, 1 where they do not; 0 without speech."""
        spans = torch.cat([made, true]).unfold(1, 2 * self.hop, self.hop) * self.window
        spectra = torch.fft.rfft(spans, 4 * self.hop)
        power = spectra.real.square() + spectra.imag.square()  # [2 B, T, F]
        level = power[len(made) :].sum(2)
        speech = level > level.amax(1, keepdim=True) * 10.0 ** (STOI_SPEECH_DB / 10.0)
        ours, theirs = torch.sqrt(power @ self.bands + 1e-10).chunk(2)
        rows = [row for row, count in enumerate(speech.sum(1).tolist()) if count >= STOI_SPAN]
        alike = [self._alike(ours[row, speech[row]], theirs[row, speech[row]]) for row in rows]
        return 1.0 - torch.stack(alike).mean() if alike else 0.0 * ours.sum()

    @staticmethod
    def _alike(made: Tensor, true: Tensor) -> Tensor:
        """Correlation of band levels [T, bands] over all spans of STOI_SPAN frames."""
        ours, theirs = made.unfold(0, STOI_SPAN, 1), true.unfold(0, STOI_SPAN, 1)  # [S, bands, SPAN]
        ours = ours * (theirs.norm(dim=2, keepdim=True) / ours.norm(dim=2, keepdim=True))
        ours = torch.minimum(ours, theirs * (1.0 + 10.0 ** (-STOI_CLIP_DB / 20.0)))
        ours, theirs = (part - part.mean(2, keepdim=True) for part in (ours, theirs))
        return ((ours * theirs).sum(2) / (ours.norm(dim=2) * theirs.norm(dim=2)).clamp_min(1e-8)).mean()


def pitch_loss(octave: Tensor, voicing_logit: Tensor, pitch: Tensor) -> dict[str, Tensor]:
    """F0 error where voiced (octaves, L1) and voicing cross-entropy.

    Args:
        octave: predicted [B, T].
        voicing_logit: predicted [B, T].
        pitch: held octave and voiced flag [B, T, 2] of the true audio.
    """
    voiced = pitch[..., 1]
    error = (octave - pitch[..., 0]).abs() * voiced
    return {
        "f0": error.sum() / voiced.sum().clamp_min(1.0),
        "voicing": F.binary_cross_entropy_with_logits(voicing_logit, voiced),
    }


class SoundLoss(torch.nn.Module):
    """What tells a decoder's sound from the true one, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.spectral, self.hearing = SpectralLoss(), HearingLoss()

    def forward(self, made: Tensor, true: Tensor) -> dict[str, Tensor]:
        """Waveforms [B, N] of at least a frame -> {"stft", "mel", "heard"}."""
        return self.spectral(made, true) | {"heard": self.hearing(made, true)}
