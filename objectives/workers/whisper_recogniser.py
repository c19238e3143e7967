"""The speech model of our Whisper server, and the truth about where it computes.

Part of `whisper_worker`: runs in an engine's interpreter, never in the study's. Nothing falls back
in silence, and what `/health` says about device and type is taken from the features themselves:
the type of the weights proves nothing, for openai-whisper casts them at every call.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
import whisper
from whisper.decoding import DecodingOptions, DecodingResult, DecodingTask
from whisper.model import ModelDimensions, Whisper
from whisper.tokenizer import get_tokenizer

SAMPLE_RATE = 16_000
WINDOW_SAMPLES = 30 * SAMPLE_RATE  # Whisper's encoder always reads 30 s
MOST_TOKENS = 224  # a window's transcript, at most: half of the decoder's context
CPU_WARMUP_TOKENS = 16
OutOfMemory: type[RuntimeError] = getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)


@dataclasses.dataclass(frozen=True)
class Transcript:
    """What one request came to; times on the monotonic clock, seconds."""

    text: str
    language: str
    tokens: int
    segments: list[dict[str, Any]]
    started_s: float
    ended_s: float


class Bfloat16Decoding(DecodingTask):  # type: ignore[misc]
    """openai-whisper's decoding with features of bfloat16, which its own check does not allow."""

    def _get_audio_features(self, mel: torch.Tensor) -> torch.Tensor:
        return self.model.encoder(mel.to(torch.bfloat16))


class Recogniser:
    """The model, and what is known about where it really computes.

    `transcribe` and `warm_up` are called in one thread only; `facts` from any.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        began_s = time.monotonic()
        self.device = choose_device(options.device, allow_fallback=options.allow_fallback)
        options.dtype = options.dtype or default_dtype(self.device)
        self._model, self._weights_bytes = load(options, self.device)
        self._model.encoder.register_forward_hook(self._see)
        if options.dtype == "bfloat16":
            self._model.decode = lambda mel, with_: (  # of one window
                Bfloat16Decoding(self._model, with_).run(mel.unsqueeze(0))[0]
            )
        self._load_s = time.monotonic() - began_s
        self._warmup_s: float | None = None
        self._seen: dict[str, str] = {}
        self.served = 0
        self.out_of_memory = 0

    def _see(
        self, _encoder: torch.nn.Module, _inputs: tuple[object, ...], features: torch.Tensor
    ) -> None:
        self._seen = {"compute_device": str(features.device), "compute_dtype": name_of(features)}

    def warm_up(self) -> None:
        """Decode 30 s of silence, to the greatest length where that costs little.

        Raises: OutOfMemory
        """
        began_s = time.monotonic()
        if self._options.threads:
            torch.set_num_threads(self._options.threads)  # counts for this thread
        shortest = MOST_TOKENS if self.device.type == "cuda" else CPU_WARMUP_TOKENS
        tokens = self._options.fixed_tokens or shortest
        silence = np.zeros(WINDOW_SAMPLES, dtype=np.float32)
        self._decode_window(silence, self._options.language, tokens)
        self._warmup_s = time.monotonic() - began_s

    def transcribe(
        self, audio: np.ndarray[Any, Any], language: str | None, temperature: float
    ) -> Transcript:
        """The words in `audio`: float32 of [-1, 1], 16 kHz, any length.

        Raises: OutOfMemory
        """
        started_s = time.monotonic()
        if self._options.fixed_tokens:
            segments = self._decode_fixed(audio, language)
            text = " ".join(segment["text"] for segment in segments)
            spoken = segments[0]["language"]
        else:
            found = self._model.transcribe(
                audio,
                language=language,
                temperature=temperature,
                beam_size=self._options.beam_size if temperature == 0 else None,
                fp16=self._options.dtype == "float16",
                condition_on_previous_text=False,
            )
            segments, text, spoken = found["segments"], found["text"].strip(), found["language"]
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        tokens = sum(len(segment["tokens"]) for segment in segments)
        self.served += 1
        return Transcript(text, spoken, tokens, segments, started_s, time.monotonic())

    def _decode_fixed(
        self, audio: np.ndarray[Any, Any], language: str | None
    ) -> list[dict[str, Any]]:
        """Every window of 30 s, to exactly `--fixed-tokens` tokens."""
        segments: list[dict[str, Any]] = []
        for start in range(0, max(len(audio), 1), WINDOW_SAMPLES):
            window = audio[start : start + WINDOW_SAMPLES]
            found = self._decode_window(window, language, self._options.fixed_tokens)
            segments.append(
                {
                    "id": len(segments),
                    "start": start / SAMPLE_RATE,
                    "end": (start + len(window)) / SAMPLE_RATE,
                    "text": found.text,
                    "tokens": found.tokens,
                    "language": found.language,
                }
            )
        return segments

    def _decode_window(
        self, audio: np.ndarray[Any, Any], language: str | None, tokens: int
    ) -> DecodingResult:
        """One window, decoded to exactly so many tokens: the end may not be chosen."""
        samples = whisper.pad_or_trim(torch.from_numpy(audio))
        mel = whisper.log_mel_spectrogram(samples, self._model.dims.n_mels, device=self.device)
        ends = get_tokenizer(self._model.is_multilingual).eot
        options = DecodingOptions(
            language=language,
            temperature=0.0,
            beam_size=self._options.beam_size,
            fp16=self._options.dtype == "float16",
            without_timestamps=True,
            sample_len=tokens,
            suppress_tokens=[-1, ends],
        )
        return self._model.decode(mel, options)

    def facts(self) -> dict[str, Any]:
        """JSON-able: what was asked for, and what really is."""
        parameters = list(self._model.parameters())
        facts = {
            "status": "ok",
            "model": self._options.model,
            "device": self._options.device,
            "dtype": self._options.dtype,
            **self._seen,
            "parameter_devices": sorted({str(each.device) for each in parameters}),
            "parameter_dtypes": sorted({name_of(each) for each in parameters}),
            "parameters_bytes": sum(each.numel() * each.element_size() for each in parameters),
            "weights_bytes": self._weights_bytes,
            "threads": self._options.threads or torch.get_num_threads(),
            "pid": os.getpid(),
            "torch_version": str(torch.__version__),
            "cuda_version": torch.version.cuda,
            "whisper_version": whisper.__version__,
            "load_s": self._load_s,
            "warmup_s": self._warmup_s,
            "served": self.served,
            "oom_events": self.out_of_memory,
        }
        return facts | (cuda_facts(self.device) if self.device.type == "cuda" else {})


def cuda_facts(device: torch.device) -> dict[str, Any]:
    """What torch's allocator and driver say about the GPU; bytes."""
    properties = torch.cuda.get_device_properties(device)
    uuid = getattr(properties, "uuid", None)
    return {
        "device_name": properties.name,
        "uuid": None if uuid is None else f"GPU-{uuid}",
        "allocated_bytes": torch.cuda.memory_allocated(device),
        "reserved_bytes": torch.cuda.memory_reserved(device),
        "peak_allocated_bytes": torch.cuda.max_memory_allocated(device),
        "peak_reserved_bytes": torch.cuda.max_memory_reserved(device),
    }


def name_of(tensor: torch.Tensor) -> str:
    """The tensor's type as options name it: float32, float16, bfloat16."""
    return str(tensor.dtype).removeprefix("torch.")


def default_dtype(device: torch.device) -> str:
    """What is computed in where nothing was asked for: the faster type that the device has."""
    half = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (7, 0)
    return "float16" if half else "float32"


def choose_device(asked: str, *, allow_fallback: bool) -> torch.device:
    """The device that was asked for; another only where that is allowed.

    Raises: SystemExit, with one line, if it is not there.
    """
    device = torch.device("cuda:0" if asked == "cuda" else asked)
    if device.type != "cuda":
        return device
    with warnings.catch_warnings(record=True) as caught:  # where torch says why it sees none
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if not available:
        why = [" ".join(str(each.message).split()) for each in caught]
        reason = ": ".join([f"torch {torch.__version__} sees no CUDA device", *why])
    elif device.index >= torch.cuda.device_count():
        reason = f"torch sees {torch.cuda.device_count()} CUDA device(s)"
    else:
        return device
    if not allow_fallback:
        leave_with(f"{asked} was asked for, but {reason}; there is no silent fallback to the CPU")
    say(f"{asked} was asked for, but {reason}: falling back to the CPU, as allowed")
    return torch.device("cpu")


def load(options: argparse.Namespace, device: torch.device) -> tuple[Whisper, int | None]:
    """The model on `device` in its type, and the size of its checkpoint in bytes.

    Weights are read into the host's memory and cast there, so the device never holds them twice.
    Checkpoints are read as weights only: nothing in them is run.

    Raises: SystemExit, if there is no such model; OutOfMemory.
    """
    path = Path(options.model)
    if options.model in whisper.available_models():
        with without_initial_values():
            model = whisper.load_model(options.model, device="cpu")
        weights_bytes = None
    elif path.is_file():
        model, weights_bytes = load_checkpoint(path), path.stat().st_size
    else:
        names = ", ".join(whisper.available_models())
        leave_with(f"model {options.model!r} is neither a file nor one of {names}")
    if options.dtype == "bfloat16" or (options.fp16_weights and options.dtype == "float16"):
        cast(model, getattr(torch, options.dtype))
    return model.to(device).eval(), weights_bytes


def load_checkpoint(path: Path) -> Whisper:
    """The model of a file with `dims` and `model_state_dict`, on the CPU.

    Raises: SystemExit, if the file is something else.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        with without_initial_values():
            model = Whisper(ModelDimensions(**checkpoint["dims"]))
        model.load_state_dict(checkpoint["model_state_dict"])
    except (OSError, KeyError, TypeError, RuntimeError, ValueError, EOFError) as error:
        if isinstance(error, OutOfMemory):
            raise
        leave_with(f"{path} is no Whisper checkpoint: {type(error).__name__}: {error}")
    return model


@contextlib.contextmanager
def without_initial_values() -> Iterator[None]:
    """Layers made inside draw no random weights, seconds for a large model: a checkpoint follows.

    Loading a state is strict, so no weight can stay undefined.
    """
    with contextlib.ExitStack() as stack:
        for kind in (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Embedding):
            stack.callback(setattr, kind, "reset_parameters", kind.reset_parameters)
            kind.reset_parameters = lambda _layer: None
        yield


def cast(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Weights in `dtype`; layer norms stay float32, which they compute in."""
    model.to(dtype)
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.float()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch means that memory is short, on either kind of device."""
    return isinstance(error, OutOfMemory | MemoryError) or "can't allocate memory" in str(error)


def say(message: str) -> None:
    """One line to the log, at once."""
    sys.stderr.write(f"whisper worker: {message}\n")
    sys.stderr.flush()


def leave_with(message: str) -> NoReturn:
    """End with one line and exit code 1."""
    say(message)
    raise SystemExit(1)
