#!/usr/bin/env python3
"""Every header of core compiles alone, as C and, where it is public, as C++ (plugin authors may use it). Arguments: root, cc, flags..."""
import pathlib
import subprocess
import sys

root, cc, flags = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
headers = sorted(p for p in root.glob("core/**/*.h"))
failed = 0
for header in headers:
    done = subprocess.run([cc, "-std=gnu11", "-fsyntax-only", "-Wall", *flags, "-x", "c", "-"], text=True, capture_output=True,
                          input=f'#include "{header}"\n')
    if done.returncode or done.stderr.strip():
        failed += 1
        print(f"{header.relative_to(root)}: does not compile alone\n{done.stderr}")
print(f"{len(headers) - failed} of {len(headers)} headers compile alone")
sys.exit(1 if failed or not headers else 0)
