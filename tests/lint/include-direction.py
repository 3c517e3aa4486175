#!/usr/bin/env python3
"""Arrows between folders go one way (README, architecture). Prints each include that goes against them."""
import pathlib
import re
import sys

root = pathlib.Path(sys.argv[1]).resolve()
# folder of core -> the folders of core that it may include
CORE = {
    "math": {"math"},
    "batch": {"batch", "math"},
    "model": {"model", "batch", "math"},
    "cache": {"cache", "batch", "math"},
    "element": {"element", "batch", "model", "math", "cache"},
}
faults = []


def includes(path):
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        match = re.match(r'\s*#\s*include\s*(["<])([^">]+)[">]', line)
        if match:
            yield number, match[1] == '"', match[2]


def fault(path, number, target, why):
    faults.append(f"{path.relative_to(root)}:{number}: includes {target}: {why}")


for path in sorted(root.glob("core/*/*.[ch]")):
    folder = path.parent.name
    if folder not in CORE:
        continue
    for number, quoted, target in includes(path):
        if quoted:
            resolved = (path.parent / target).resolve()
            other = resolved.parent.name
            if other in CORE and other not in CORE[folder]:
                fault(path, number, target, f"core/{folder} may not use core/{other}")
        if target.startswith(("hdf5", "H5")) and not (folder == "cache" or path.name.startswith("kd-h5")):
            fault(path, number, target, "only core/batch/kd-h5* and core/cache know HDF5")
        if folder == "math" and target.startswith(("glib", "gst", "gio")):
            fault(path, number, target, "core/math is plain C")
        if target.startswith(("torch", "ATen", "c10")):
            fault(path, number, target, "only plugins/engine knows libtorch")

for path in sorted(root.glob("plugins/**/*.[ch]*")):
    kind = path.relative_to(root / "plugins").parts[0]
    for number, quoted, target in includes(path):
        if target.startswith(("torch", "ATen", "c10")) and kind != "engine":
            fault(path, number, target, "only plugins/engine knows libtorch")
        if target.startswith(("hdf5", "H5")):
            fault(path, number, target, "plugins read HDF5 through core/batch and core/cache")
        if quoted and path.parent not in (path.parent / target).resolve().parents:
            fault(path, number, target, "a plugin includes <kd/kd.h> and its own files only")

for path in sorted(root.glob("tools/**/*.[ch]")):
    for number, _, target in includes(path):
        if "plugins/" in target or target.startswith(("hdf5", "torch", "ATen")):
            fault(path, number, target, "tools use core only")

print("\n".join(faults) if faults else "includes go one way")
sys.exit(1 if faults else 0)
