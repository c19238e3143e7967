"""Speech-like sound, and clips given as files."""

import io
import wave

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.errors import UsageError
from objectives.load.audio import SAMPLE_RATE_HZ, read_clip, speech_like


def signal_of(clip):
    with wave.open(io.BytesIO(clip.wav)) as reader:
        assert (reader.getframerate(), reader.getnchannels(), reader.getsampwidth()) == (
            16000,
            1,
            2,
        )
        return np.frombuffer(reader.readframes(reader.getnframes()), "<i2") / 32768


@settings(max_examples=20, deadline=None)
@given(st.floats(0.05, 3.0), st.integers(0, 2**32))
def test_a_clip_is_as_long_as_it_was_asked_for_and_never_overdriven(duration_s, seed):
    clip = speech_like(duration_s, seed)
    signal = signal_of(clip)
    assert len(signal) == round(duration_s * SAMPLE_RATE_HZ)
    assert clip.duration_s == pytest.approx(duration_s, abs=1 / SAMPLE_RATE_HZ)
    assert 0 < np.abs(signal).max() < 0.7


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others():
    speech_like.cache_clear()
    first = speech_like(1.5, 7).wav
    speech_like.cache_clear()
    assert speech_like(1.5, 7).wav == first
    assert speech_like(1.5, 8).wav != first


def test_loudness_varies_between_syllables_and_pauses():
    """A voice-activity detector must find both: loud frames and silent ones."""
    signal = signal_of(speech_like(10.0, 3))
    frames = signal[: len(signal) // 320 * 320].reshape(-1, 320)  # 20 ms
    loudness = np.sqrt((frames**2).mean(axis=1))
    assert (loudness > 0.05).mean() > 0.2
    assert (loudness < 0.01).mean() > 0.1


def test_voiced_sound_has_its_energy_where_formants_are():
    signal = signal_of(speech_like(10.0, 3))
    power = np.abs(np.fft.rfft(signal)) ** 2
    hz = np.fft.rfftfreq(len(signal), 1 / SAMPLE_RATE_HZ)
    speech_band = power[(hz > 80) & (hz < 4000)].sum()
    assert speech_band > 0.8 * power.sum()


def test_no_sound_in_no_time():
    with pytest.raises(ValueError, match="no sound"):
        speech_like(0.0, 1)


def test_a_clip_written_to_a_file_is_read_back_whole(tmp_path):
    made = speech_like(1.0, 5)
    path = tmp_path / "own.wav"
    path.write_bytes(made.wav)
    read = read_clip(path)
    assert (read.name, read.duration_s, read.sha256) == ("own.wav", 1.0, made.sha256)


def stereo(path):
    with wave.open(str(path), "wb") as writer:
        writer.setframerate(44100)
        writer.setnchannels(2)
        writer.setsampwidth(2)
        writer.writeframes(b"\0" * 400)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "cannot be read"),
        (lambda path: path.write_bytes(b"RIFF????no sound"), "is no WAV file"),
        (lambda path: path.write_bytes(b""), "is no WAV file"),
        (stereo, "is 44100 Hz, 2 channels, 16 bits.*needed: 16000 Hz"),
    ],
)
def test_a_file_that_cannot_be_sent_is_refused_in_one_line(tmp_path, make, said):
    path = tmp_path / "clip.wav"
    make(path)
    with pytest.raises(UsageError, match=said) as refused:
        read_clip(path)
    assert "\n" not in str(refused.value)
    assert str(path) in str(refused.value)
