#!/usr/bin/env python3
"""Runs what the README shows: every indented command of its sections on pipelines and caches, in order, in a scratch folder.

A line that follows as "ERROR ..." is what the command before it must print (it then exits 1). Arguments: source root, build root.
"""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

root, build = map(pathlib.Path, sys.argv[1:3])
SECTIONS = ("A first pipeline, explained", "Cache a teacher")
text = (root / "README.md").read_text()
scratch = pathlib.Path(tempfile.mkdtemp(prefix="kdreadme-"))
(scratch / "pipelines").symlink_to(root / "pipelines")
env = dict(os.environ, PATH=f"{build / 'tools'}:/usr/bin:{os.environ['PATH']}")
n_run = n_failed = 0


def blocks(section):
    body = re.search(rf"^## {re.escape(section)}\n(.*?)(?=^## )", text, re.S | re.M)[1]
    return re.findall(r"(?:^    .*\n)+", body, re.M)


def commands(block):
    """Joins lines while a quote is open; drops the "# 1" marks and the "$ " of a prompt."""
    command = ""
    for line in block.splitlines():
        line = re.sub(r"\s+#.*$", "", line.strip())
        command = f"{command} {line}".strip()
        if command.count("'") % 2 == 0:
            yield command.removeprefix("$ ")
            command = ""


for section in SECTIONS:
    pending = None
    for command in [c for block in blocks(section) for c in commands(block)] + [None]:
        if command and command.startswith("ERROR"):
            expected, command = command, pending
            pending = None
            done = subprocess.run(command, shell=True, cwd=scratch, env=env, text=True, capture_output=True)
            good = done.returncode == 1 and expected in done.stderr + done.stdout
        else:
            run, pending = pending, command
            if run is None:
                continue
            command = run
            done = subprocess.run(command, shell=True, cwd=scratch, env=env, text=True, capture_output=True)
            good = done.returncode == 0
        n_run += 1
        n_failed += not good
        print("ok  " if good else "FAIL", command)
        if not good:
            print(done.stdout[-2000:], done.stderr[-2000:])
shutil.rmtree(scratch)
print(f"{n_run - n_failed} passed, {n_failed} failed")
sys.exit(1 if n_failed or n_run < 8 else 0)
