#!/usr/bin/env python3
"""All C and C++ of the project is formatted as .clang-format says. `format.py ROOT clang-format --write` formats it."""
import pathlib
import subprocess
import sys

root, tool = pathlib.Path(sys.argv[1]), sys.argv[2]
paths = sorted(str(p) for folder in ("core", "plugins", "tools", "tests") for p in (root / folder).glob("**/*")
               if p.suffix in (".c", ".h", ".cpp", ".hpp") and "template" not in str(p))
mode = ["-i"] if "--write" in sys.argv else ["--dry-run", "-Werror"]
done = subprocess.run([tool, "--style=file", *mode, *paths], text=True, capture_output=True, cwd=root)
print("\n".join(done.stderr.splitlines()[:40]) if done.returncode else f"{len(paths)} files formatted")
sys.exit(done.returncode)
