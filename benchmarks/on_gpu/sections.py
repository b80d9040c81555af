"""One section in its own process: ``python -m benchmarks.on_gpu.sections NAME OUT``; its last line is its result."""

from __future__ import annotations

import importlib
import json
import math
import sys
from pathlib import Path
from typing import Any


def plain(value: Any) -> Any:
    """A result as JSON has it: what is not a number is null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): plain(of) for key, of in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(of) for of in value]
    return value


def main() -> None:
    name, out = sys.argv[1], Path(sys.argv[2])
    measure = importlib.import_module(f"benchmarks.on_gpu.section_{name}").measure
    print(json.dumps(plain(measure(out))), flush=True)


if __name__ == "__main__":
    main()
