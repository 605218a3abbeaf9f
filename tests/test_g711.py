import warnings

import numpy as np
import pytest

from streaming import g711

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop  # the standard library's own, until Python 3.13


@pytest.mark.parametrize(("law", "reference"), [("mu", audioop.ulaw2lin), ("a", audioop.alaw2lin)])
def test_every_byte_means_what_the_standard_says(law: g711.Law, reference: object) -> None:
    """All 256 codes decode to the reference's 16-bit values."""
    codes = bytes(range(256))
    expected = np.frombuffer(reference(codes, 2), "<i2")  # type: ignore[operator]
    np.testing.assert_array_equal(g711.decode(codes, law) * 32768, expected)


@pytest.mark.parametrize(("law", "reference"), [("mu", audioop.lin2ulaw), ("a", audioop.lin2alaw)])
def test_every_level_is_written_as_well_as_by_the_reference(law: g711.Law, reference: object) -> None:
    """No 16-bit value is farther from its code's value than with the reference's code."""
    levels = np.arange(-32768, 32768).astype("<i2")
    ours = g711.decode(g711.encode((levels / 32768).astype(np.float32), law), law) * 32768
    theirs = g711.decode(reference(levels.tobytes(), 2), law) * 32768  # type: ignore[operator]
    assert (np.abs(ours - levels) <= np.abs(theirs - levels)).all()


@pytest.mark.parametrize("law", ["mu", "a"])
def test_a_code_survives_the_way_there_and_back(law: g711.Law) -> None:
    """Decoding and encoding again changes nothing, but the two zeros of mu-law, which are one value."""
    codes = bytes(range(256))
    again = g711.encode(g711.decode(codes, law), law)
    assert [a for a, b in zip(codes, again, strict=True) if a != b] in ([], [0x7F], [0xFF])


def test_what_is_no_sample_is_silence_or_the_loudest_there_is() -> None:
    """NaN becomes 0, and more than full scale full scale."""
    odd = np.array([np.nan, 2.0, -np.inf], np.float32)
    np.testing.assert_allclose(g711.decode(g711.encode(odd, "a"), "a"), [0.0, 1.0, -1.0], atol=0.02)
