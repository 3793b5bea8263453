"""
Build what is released: the sdist, the wheel, the one file, and what is in each (CycloneDX).

    python release/dist.py dist/
"""

import argparse
import platform
import sys
from pathlib import Path

import distributions
import onefile
import sbom


def build(out: Path) -> list[Path]:
    """Build all of it into `out`."""
    at_s = distributions.epoch_s()
    made = [*distributions.build(out)]
    wheel = made[-1]
    contents = wheel.with_suffix(".cdx.json")
    sbom.write(contents, wheel, at_s)
    return [*made, contents, *onefile.build(wheel, out, at_s)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    if lacking := onefile.missing():
        sys.exit(f"Error: the one file needs {', '.join(lacking)}\nTry: make tools, as root")
    for path in build(out):
        print(f"{path.stat().st_size / 1e6:6.1f} MB  {path}")
    print(
        f"the one file needs Linux on {platform.machine()} and no C library: it brings"
        f" {' '.join(platform.libc_ver())} and Python {platform.python_version()}"
    )


if __name__ == "__main__":
    main()
