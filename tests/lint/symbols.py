#!/usr/bin/env python3
"""What the library exports is a reviewed list: tests/lint/symbols.txt. Arguments: library, list [, --write]."""
import pathlib
import subprocess
import sys

library, listed = sys.argv[1], pathlib.Path(sys.argv[2])
out = subprocess.run(["nm", "-D", "--defined-only", library], check=True, text=True, capture_output=True).stdout
have = sorted({line.split()[2].split("@")[0] for line in out.splitlines() if len(line.split()) == 3 and line.split()[1] in "TDBR"})
if "--write" in sys.argv:
    listed.write_text("\n".join(have) + "\n")
want = set(listed.read_text().split())
for name in have:
    if not name.startswith("kd_"):
        print(f"exported, but not kd_*: {name}")
for name in sorted(set(have) - want):
    print(f"exported, but not in the list (add it after review: {sys.argv[0]} LIBRARY LIST --write): {name}")
for name in sorted(want - set(have)):
    print(f"in the list, but not exported: {name}")
print(f"{len(have)} symbols")
sys.exit(0 if set(have) == want and all(n.startswith("kd_") for n in have) else 1)
