"""The shapes of models: enough to make random weights of the same size, and to say how large.

Pure: what makes the files is `study.setup.weights`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from objectives.errors import UsageError
from objectives.models import ModelShape, UnsupportedShapeError, hub_folder, weight_bytes
from study.config import DummyModel, StudyConfig

_AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}


class DummyLlm(DummyModel):
    """The shape of a language model whose weights are random."""

    family: Literal["llama", "qwen2"] = "llama"
    tied: bool = False  # input and output embeddings are one
    quantization: Literal["awq"] | None = None  # 4 bits a weight

    def config(self) -> dict[str, Any]:
        """As Hugging Face's `config.json` says it.

        Raises: UsageError, if the shape cannot be computed.
        """
        if self.heads % self.kv_heads:
            raise UsageError(
                f"heads: {self.heads} is no multiple of kv_heads, which are {self.kv_heads}"
            )
        if self.family == "qwen2" and self.heads * self.head_dim != self.hidden:
            raise UsageError(f"hidden: {self.hidden} is not heads times head_dim, as qwen2 needs")
        names = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}
        config = {
            "architectures": [names[self.family]],
            "model_type": self.family,
            "num_hidden_layers": self.layers,
            "hidden_size": self.hidden,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.intermediate,
            "vocab_size": self.vocab,
            "max_position_embeddings": self.max_position,
            "tie_word_embeddings": self.tied,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-6,
            "rope_theta": 1_000_000.0,
            "torch_dtype": "float16" if self.quantization else "bfloat16",
        }
        return config | ({"quantization_config": _AWQ} if self.quantization else {})


_QWEN = {  # layers, hidden, heads, KV heads, intermediate, vocabulary
    "0.5B-Instruct": (24, 896, 14, 2, 4864, 151_936),
    "1.5B-Instruct": (28, 1536, 12, 2, 8960, 151_936),
    "3B-Instruct": (36, 2048, 16, 2, 11008, 151_936),
    "7B-Instruct": (28, 3584, 28, 4, 18944, 152_064),
    "7B-Instruct-AWQ": (28, 3584, 28, 4, 18944, 152_064),
}
LLM_SHAPES = {
    f"Qwen/Qwen2.5-{name}": DummyLlm(
        family="qwen2",
        vocab=vocab,
        tied=not name.startswith("7B"),  # from 7B on, embeddings of their own
        quantization="awq" if name.endswith("AWQ") else None,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=hidden // heads,
        intermediate=intermediate,
        max_position=32_768,
    )
    for name, (layers, hidden, heads, kv_heads, intermediate, vocab) in _QWEN.items()
}
"""Models whose names are enough for random weights of the same size (their config.json)."""


def dummy_shape(config: StudyConfig) -> DummyLlm:
    """The shape that the configuration gives a model without a name."""
    return DummyLlm(**config.document.vllm.dummy.model_dump())


def model_shape(config: StudyConfig, folder: Path | None) -> tuple[ModelShape | None, str | None]:
    """The language model's shape, or why it is not known."""
    name = config.document.vllm.model or ""
    found: Path | Mapping[str, object] | None = folder
    if folder is None and config.document.vllm.weights == "dummy":
        found = LLM_SHAPES.get(name, dummy_shape(config)).config()
    elif folder is None:
        local = Path(name).expanduser()
        found = local if (local / "config.json").is_file() else hub_folder(name)
    if found is None:
        return None, f"{name} is not on this machine yet, its config.json is unknown"
    try:
        return ModelShape.from_config(found), None
    except (UnsupportedShapeError, OSError, ValueError) as error:
        return None, " ".join(str(error).split())


def llm_weights_bytes(
    config: StudyConfig, model: str, shape: ModelShape | None, *, local: bool
) -> int | None:
    """Bytes of the model's weight files as the engine loads them, where there are any."""
    if config.document.vllm.weights == "dummy" or shape is None:
        return None
    folder = Path(model).expanduser() if local else hub_folder(model)
    if folder is None:
        return None
    return weight_bytes(
        folder,
        dtype_bytes=shape.dtype_bytes,
        tied=shape.tied_embeddings,
        layers=None if shape.speech else shape.layers,
    )
