"""Will it fit? Predicts vLLM's KV cache for a model, a device and a utilisation; launches nothing.

Says which utilisation is the least that works, and which flag makes room most cheaply. Every
number says where it came from: given, read from files, estimated from the model's shape, or
calibrated by a real start; and how far it may be wrong.

Exit codes: 0 it fits (of several, at least one); 1 it does not; 2 bad usage.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from objectives.errors import BenchError, UsageError
from objectives.memory import (
    DeviceMemory,
    Estimate,
    ServerModel,
    WhisperModel,
    given,
    predict_vllm,
)
from objectives.models import (
    WHISPER_NAMES,
    ModelShape,
    UnsupportedShapeError,
    hub_cache,
    hub_folder,
    is_hub_name,
    weight_bytes,
)
from objectives.units import GIB
from objectives.vllm import NEWEST, VllmRules, VllmSettings
from study.command import only, put, refused
from study.fit.document import Scene, answers_to_json
from study.fit.text import render, render_candidates

PROG = "python -m study.fit"
NEWEST_VERSION = ".".join(map(str, NEWEST))

_OPTIONS = {
    "max_model_len": "tokens of the longest request; default: the model's own",
    "kv_cache_dtype": "auto, fp8, ...",
    "tensor_parallel_size": "devices that share the model",
    "block_size": "tokens of a block of KV cache",
    "max_num_seqs": "requests of one step",
    "max_num_batched_tokens": "tokens of one step",
}
_FLAGS = {
    "enforce_eager": "no CUDA graphs",
    "enable_prefix_caching": "a hybrid with recurrent layers then keeps two states a sequence",
    "no_enable_prefix_caching": "and here one",
}
"""Of vLLM, under its own names, and what each takes or does."""

EXAMPLE = f"""\
examples:
  the seeds' own case, an RTX 3060 with Qwen2.5-7B-Instruct-AWQ:
    {PROG} --model Qwen2.5-7B-Instruct-AWQ/ --device-total-gib 11.63 \\
        --weights-gib 5.2 --overhead-gib 0.242 --max-model-len 2048 \\
        --utilization 0.40,0.45,0.50,0.55,0.60 --whisper small --vllm-version 0.11.0
  every candidate of a study, against what is free on its device now:
    {PROG} study/configs/gpu.yaml
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit 0: it fits; 1: it does not; 2: bad usage."""
    args = _parser().parse_args(argv)
    try:
        return _candidates(args) if args.config is not None else _one_model(args)
    except (UsageError, UnsupportedShapeError, BenchError) as error:
        return refused(PROG, error)


def _floats(text: str) -> list[float]:
    return [float(part) for part in text.split(",") if part.strip()]


_amount = only(float, lambda gib: 0 < gib < 1 << 20, "a number of GiB above 0")
_size = only(float, lambda gib: 0 <= gib < 1 << 20, "a number of GiB")
_fractions = only(
    _floats,
    lambda values: bool(values) and all(0 < value <= 1 for value in values),
    "above 0 and up to 1, separated by commas",
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROG,
        description=(__doc__ or "").partition("\n\nExit")[0],
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "config", nargs="?", type=Path, metavar="CONFIG", help="a study; all its candidates"
    )
    what.add_argument(
        "--model",
        metavar="PATH|NAME",
        help="a folder or file with a config.json, or the name of a model that was downloaded",
    )
    parser.add_argument("--experiment", metavar="NAME", help="of a CONFIG that holds several")
    _device_options(parser.add_argument_group("the device (read live where no total is given)"))
    _server_options(parser.add_argument_group("vLLM"))
    known = parser.add_argument_group("what is known already")
    known.add_argument(
        "--weights-gib", type=_size, metavar="N", help="of one device, as vLLM's log prints it"
    )
    known.add_argument(
        "--overhead-gib",
        type=_size,
        metavar="N",
        help="activation, non-torch and graphs together, of one device",
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    return parser


def _device_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--device-total-gib", type=_amount, metavar="N", help="as CUDA shows it")
    group.add_argument(
        "--device-free-gib",
        type=_size,
        metavar="N",
        help="free when Whisper and vLLM start, as vLLM's own check prints it; default: all",
    )
    group.add_argument(
        "--device-kind", choices=("cuda", "cpu"), default="cuda", help="default: cuda"
    )
    group.add_argument(
        "--whisper", metavar="SIZE", help=f"runs beside vLLM: {', '.join(WHISPER_NAMES)}"
    )


def _server_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--utilization",
        action="append",
        type=_fractions,
        metavar="F[,F...]",
        help="--gpu-memory-utilization; several make a table; default: vLLM's own",
    )
    for name, meaning in _OPTIONS.items():
        flag = f"--{name.replace('_', '-')}"
        group.add_argument(flag, metavar="N" if "dtype" not in flag else "TYPE", help=meaning)
    for name, meaning in _FLAGS.items():
        group.add_argument(f"--{name.replace('_', '-')}", action="store_true", help=meaning)
    group.add_argument(
        "--vllm-version",
        default=NEWEST_VERSION,
        metavar="V",
        help=f"whose rules hold; default: {NEWEST_VERSION}",
    )


def _one_model(args: argparse.Namespace) -> int:
    """One model on one device, at one utilisation or several."""
    folder = _folder(args.model)
    memory, device_name = _device(args)
    server = _server(args, folder, memory, device_name)
    if args.whisper:
        speech = WhisperModel(name=args.whisper).expect(args.device_kind)
        memory = replace(memory, whisper=speech)
    asked = [value for values in args.utilization or () for value in values]
    servers = [server.with_settings(utilization=value) for value in asked] or [server]
    answers = [predict_vllm(each, memory) for each in servers]
    scene = Scene(
        model=_name(args.model, folder),
        device_name=device_name,
        free_known=bool(device_name) or args.device_free_gib is not None,
        whisper=args.whisper,
    )
    document = answers_to_json(scene, answers)
    put(json.dumps(document, indent=2) if args.json else render(scene, answers))
    return 0 if any(answer.fits for answer in answers) else 1


def _folder(model: str) -> Path:
    """Where the model lies: a path as it is, a name in the hub's cache on this machine."""
    place = Path(model).expanduser()
    if place.exists() or not is_hub_name(model):
        return place
    found = hub_folder(model)
    if found is None:
        raise UsageError(
            f"--model {model}: neither a folder here nor a model in the hub's cache"
            f" ({hub_cache()}): give the folder that holds its config.json, or fetch that"
            f" (hf download {model} config.json)"
        )
    return found


def _server(
    args: argparse.Namespace, folder: Path, memory: DeviceMemory, device_name: str
) -> ServerModel:
    """The server as it is asked for, at vLLM's own utilisation."""
    shape = ModelShape.from_config(folder)
    rules = VllmRules(args.vllm_version, args.device_kind)
    options = {name: getattr(args, name) for name in (*_OPTIONS, *_FLAGS)}
    try:
        settings = VllmSettings.from_args(
            options, rules, device_total_bytes=memory.total_bytes, device_name=device_name
        )
    except UnsupportedShapeError as error:
        raise UsageError(f"--{error}") from error
    overhead = None
    if args.overhead_gib is not None:
        overhead = given(round(args.overhead_gib * GIB), "activation, non-torch and graphs")
    return ServerModel(
        shape=shape,
        settings=settings,
        rules=rules,
        weights_bytes=_weights(args, folder, shape),
        overhead=overhead,
    )


def _weights(args: argparse.Namespace, folder: Path, shape: ModelShape) -> int | Estimate | None:
    """Given, else read from the files beside the configuration, else left to the shape."""
    if args.weights_gib is not None:
        return given(round(args.weights_gib * GIB))
    return weight_bytes(
        folder,
        dtype_bytes=shape.dtype_bytes,
        tied=shape.tied_embeddings,
        layers=None if shape.speech else shape.layers,
    )


def _device(args: argparse.Namespace) -> tuple[DeviceMemory, str]:
    """The device as given; where it is not, the one that is there, read now; and its name."""
    if args.device_total_gib is not None:
        total = round(args.device_total_gib * GIB)
        free = total if args.device_free_gib is None else round(args.device_free_gib * GIB)
        if free > total:
            raise UsageError(
                f"--device-free-gib {args.device_free_gib:g} is more than"
                f" --device-total-gib {args.device_total_gib:g}"
            )
        return DeviceMemory(total_bytes=total, free_bytes=free, free_after_context=True), ""
    if args.device_free_gib is not None:
        raise UsageError("--device-free-gib needs --device-total-gib")
    from objectives.device import open_device  # noqa: PLC0415 - drivers only where asked for
    from study.engines import with_known_total  # noqa: PLC0415 - likewise

    device = with_known_total(open_device("auto"))
    args.device_kind = device.kind
    state = device.read()
    return DeviceMemory(
        total_bytes=state.server_total_bytes, free_bytes=state.free_bytes
    ), device.name


def _name(model: str, folder: Path) -> str:
    """The name that was asked for; of a path, the folder's."""
    if not Path(model).expanduser().exists():
        return model
    place = folder if folder.is_dir() else folder.parent
    return place.resolve().name


def _candidates(args: argparse.Namespace) -> int:
    """All candidates of a study against the live device."""
    from study.config import read_config  # noqa: PLC0415
    from study.setup import predict_all  # noqa: PLC0415 - optuna and engines, only for a study

    rows = predict_all(read_config(args.config, experiment=args.experiment))
    put(render_candidates(rows, as_json=args.json))
    return 0 if any(row.prediction.fits for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
