"""Speech-like sound, made once, and clips given as files.

Nobody needs to own recordings to load a speech-to-text server: what it costs depends on the length
of the clip, not on the words. The sound has what features of speech look at: voiced syllables
with a moving pitch and three formants, hissing consonants, pauses of different lengths.

Everything is 16 kHz, one channel, 16 bits, in a WAV container: what the Whisper models eat.
"""

from __future__ import annotations

import hashlib
import io
import wave
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from objectives.errors import UsageError

SAMPLE_RATE_HZ = 16_000
"""Samples per second of every clip; Whisper's own rate."""

Signal = npt.NDArray[np.float64]

_VOWELS_HZ = ((730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480))
"""First three formants of four vowels. Source: Peterson & Barney 1952, table II (men)."""

_PEAK = 0.6
"""Loudest sample as a fraction of full scale."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One piece of sound, as it is sent.

    Attributes:
        name: A file name without a folder.
        wav: A whole WAV file: 16 kHz, one channel, 16 bits.
        duration_s: Seconds of sound.
    """

    name: str
    wav: bytes = field(repr=False)
    duration_s: float

    @property
    def sha256(self) -> str:
        """Digest of the file's bytes, in hex."""
        return hashlib.sha256(self.wav).hexdigest()


def read_clip(path: Path) -> Clip:
    """A recording of somebody's own.

    Raises:
        UsageError: The file cannot be read, is no WAV file, or is not 16 kHz, mono, 16 bits.
    """
    try:
        raw = path.read_bytes()
        with wave.open(io.BytesIO(raw)) as reader:
            found = (reader.getframerate(), reader.getnchannels(), 8 * reader.getsampwidth())
            frames = reader.getnframes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (wave.Error, EOFError) as error:
        raise UsageError(f"{path}: is no WAV file: {error}") from error
    if found != (SAMPLE_RATE_HZ, 1, 16) or frames == 0:
        raise UsageError(
            f"{path}: is {found[0]} Hz, {found[1]} channels, {found[2]} bits, {frames} frames; "
            "needed: 16000 Hz, 1 channel, 16 bits: ffmpeg -i IN -ar 16000 -ac 1 -c:a pcm_s16le OUT"
        )
    return Clip(name=path.name, wav=raw, duration_s=frames / SAMPLE_RATE_HZ)


@lru_cache(maxsize=64)
def speech_like(duration_s: float, seed: int) -> Clip:
    """A clip of `duration_s` seconds that sounds, to a feature extractor, like speech.

    The same arguments always give the same bytes (with the same numpy).

    Raises:
        ValueError: `duration_s` is not positive.
    """
    if not duration_s > 0:
        raise ValueError(f"a clip of {duration_s} s has no sound in it")
    count = max(1, round(duration_s * SAMPLE_RATE_HZ))
    stream = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(count,)))
    signal = _babble(count, stream)
    signal *= _PEAK / max(float(np.max(np.abs(signal))), 1e-9)
    name = f"speech-like-{count / SAMPLE_RATE_HZ:g}s-{seed}.wav"
    return Clip(name=name, wav=_wav(signal), duration_s=count / SAMPLE_RATE_HZ)


def _babble(count: int, stream: np.random.Generator) -> Signal:
    """`count` samples of syllables and pauses over a faint noise floor."""
    signal = stream.normal(scale=1e-3, size=count)
    at = 0
    while at < count:
        for sound in (_consonant(stream), _vowel(stream)):
            piece = sound[: max(0, count - at)]
            signal[at : at + len(piece)] += piece
            at += len(piece)
        long_pause = stream.random() < 0.2  # between phrases; the others are between syllables
        at += _samples(stream.uniform(0.25, 0.7) if long_pause else stream.uniform(0.01, 0.08))
    return signal


def _vowel(stream: np.random.Generator) -> Signal:
    """A voiced sound of 80 to 280 ms: harmonics of a gliding pitch under three formants."""
    count = _samples(stream.uniform(0.08, 0.28))
    pitch_hz = np.linspace(stream.uniform(90, 220), stream.uniform(90, 220), count)
    phase = 2 * np.pi * np.cumsum(pitch_hz) / SAMPLE_RATE_HZ
    formants_hz = np.array(_VOWELS_HZ[stream.integers(len(_VOWELS_HZ))])[:, None]
    signal = np.zeros(count)
    for harmonic in range(1, int(4000 / float(pitch_hz.mean()))):
        middle_hz = harmonic * float(pitch_hz.mean())
        gain = float(np.exp(-(((middle_hz - formants_hz) / 150.0) ** 2)).sum()) + 0.02
        signal += gain / harmonic**0.5 * np.sin(harmonic * phase)
    return signal * np.hanning(count) * stream.uniform(0.4, 1.0)


def _consonant(stream: np.random.Generator) -> Signal:
    """A hiss of 20 to 120 ms; its first difference moves the energy to high frequencies."""
    count = _samples(stream.uniform(0.02, 0.12))
    return np.diff(stream.normal(size=count + 1)) * np.hanning(count) * stream.uniform(0.05, 0.4)


def _samples(duration_s: float) -> int:
    return int(duration_s * SAMPLE_RATE_HZ)


def _wav(signal: Signal) -> bytes:
    """A WAV file of a signal within -1 .. 1."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setframerate(SAMPLE_RATE_HZ)
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.writeframes(np.round(signal * 32767).astype("<i2").tobytes())
    return file.getvalue()
