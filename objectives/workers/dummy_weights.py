"""Make models with random weights. Launched, never imported.

Run by an engine's interpreter, which has torch, openai-whisper, tokenizers and transformers:

    python dummy_weights.py whisper --config '{"n_mels": 80, ...}' --seed 0 --out tiny.pt
    python dummy_weights.py llm --config '{"model_type": "llama", ...}' --out FOLDER

A Whisper checkpoint holds float16, as the published ones do. An LLM's folder holds no weights at
all (vLLM makes them: `--load-format dummy`), but its configuration and a tokenizer that was
trained on made-up words.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

SPREAD = 0.02  # standard deviation of the weights: activations stay finite in float16
TOKENIZER_TOKENS = 8192  # of larger vocabularies only so many are words
END = "<|endoftext|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def make_whisper(dims: dict[str, int], seed: int, out: Path) -> None:
    """A checkpoint as openai-whisper loads it, with seeded weights."""
    import torch  # noqa: PLC0415 - an LLM's folder needs neither
    from whisper.model import AudioEncoder, TextDecoder, sinusoids  # noqa: PLC0415

    audio, text = (
        [dims[f"n_{part}_{what}"] for what in ("ctx", "state", "head", "layer")]
        for part in ("audio", "text")
    )
    with torch.device("meta"):  # shapes only, no memory
        encoder = AudioEncoder(dims["n_mels"], *audio).state_dict(prefix="encoder.")
        decoder = TextDecoder(dims["n_vocab"], *text).state_dict(prefix="decoder.")
    generator = torch.Generator().manual_seed(seed)
    weights = {name: draw(name, like, generator) for name, like in {**encoder, **decoder}.items()}
    weights["encoder.positional_embedding"] = sinusoids(
        dims["n_audio_ctx"], dims["n_audio_state"]
    ).half()
    torch.save({"dims": dims, "model_state_dict": weights}, out)


def draw(name: str, like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """One tensor: normal, but ones for the scales of layer norms and zeros for biases."""
    import torch  # noqa: PLC0415

    if name.endswith(".bias"):
        return torch.zeros(like.shape, dtype=torch.float16)
    if like.dim() == 1:
        return torch.ones(like.shape, dtype=torch.float16)
    return torch.empty(like.shape).normal_(0.0, SPREAD, generator=generator).half()


def make_llm(config: dict[str, Any], out: Path) -> None:
    """A model folder for vLLM's `--load-format dummy`."""
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415

    tokenizer = train_tokenizer(min(config["vocab_size"], TOKENIZER_TOKENS))
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=END,
        model_max_length=config["max_position_embeddings"],
    )
    wrapped.chat_template = CHAT_TEMPLATE
    out.mkdir(parents=True, exist_ok=True)
    wrapped.save_pretrained(out)
    end = tokenizer.token_to_id(END)
    ends = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
    (out / "config.json").write_text(json.dumps({**config, **ends}, indent=2))
    generation = {"do_sample": False, **ends}
    (out / "generation_config.json").write_text(json.dumps(generation, indent=2))


def train_tokenizer(tokens: int) -> Any:  # noqa: ANN401 - tokenizers has no types
    """Byte-level BPE over made-up words: any text can be encoded and decoded again."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: PLC0415

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=tokens,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(made_up_text(tokens), trainer)
    return tokenizer


def made_up_text(tokens: int) -> list[str]:
    """Lines of pronounceable words, always the same, enough of them for so many tokens."""
    source = random.Random(0)
    syllables = [onset + vowel for onset in "bdfgklmnprstvz" for vowel in "aeiou"]
    words = ["".join(source.choices(syllables, k=source.randint(1, 4))) for _ in range(tokens)]
    return [" ".join(source.choices(words, k=12)) for _ in range(tokens)]


def main() -> int:
    """Make one model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=("whisper", "llm"))
    parser.add_argument("--config", type=json.loads, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if options.kind == "whisper":
        make_whisper(options.config, options.seed, options.out)
    else:
        make_llm(options.config, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
