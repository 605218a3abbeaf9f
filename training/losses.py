"""Metric losses of the codec: multi-resolution spectra, mel, pitch."""

import torch
from torch import Tensor
from torch.nn import functional as F

from models.features import mel_bank

RESOLUTIONS = (256, 512, 1024, 2048)


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
