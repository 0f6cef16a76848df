"""``python -m benchmarks [request|frameworks|server|rows|delivery|verify|collector|stores ...]``: what things cost, as ratios within one run.

``python -m benchmarks size [options]`` is what a collector costs that holds many records; it takes its time.
"""

import importlib
import platform
import sys

PARTS = ("request", "frameworks", "server", "rows", "delivery", "verify", "collector", "stores")


def main() -> None:
    print(f"{platform.python_implementation()} {platform.python_version()}, {platform.machine()}, {platform.release()}")
    if sys.argv[1:2] == ["size"]:
        importlib.import_module("benchmarks.size").main(sys.argv[2:])
        return
    for name in sys.argv[1:] or PARTS:
        if name not in PARTS:
            sys.exit(f"no benchmark {name!r}; there are {', '.join(PARTS)}, size")
        importlib.import_module(f"benchmarks.{name}").main()


if __name__ == "__main__":
    main()
