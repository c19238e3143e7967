"""Check a configuration, or print what one may say."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from objectives.errors import UsageError
from study.command import refused
from study.config.files import read_config
from study.config.reference import reference
from study.config.schema import Document


def main(argv: Sequence[str] | None = None) -> int:
    """Check a configuration, or print what one may say."""
    parser = argparse.ArgumentParser(
        prog="python -m study.config",
        description="Check a configuration, or print what one may say.",
        epilog="example: python -m study.config my-box.yaml",
    )
    parser.add_argument("config", type=Path, nargs="?", help="YAML to check")
    parser.add_argument("--experiment", metavar="NAME", help="which block of several")
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema for editors")
    parser.add_argument("--reference", action="store_true", help="print every key, in Markdown")
    args = parser.parse_args(argv)
    if args.schema:
        print(json.dumps(Document.model_json_schema(), indent=2))
        return 0
    if args.reference:
        print(reference())
        return 0
    try:
        config = read_config(args.config, experiment=args.experiment)
    except UsageError as error:
        return refused("study.config", error)
    size = config.space.size
    points = "infinitely many" if size is None else str(size)
    print(f"{config.name}: {points} points, objectives {', '.join(config.directions)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
