#!/usr/bin/env python3
"""Write the man pages from what the program itself says, so that the two cannot disagree.

    make-man.py KD FOLDER           write FOLDER/kd.1, kd-launch.1, ...
    make-man.py --check KD FOLDER   exit 1 when a page there is not what would be written
"""
import os
import re
import subprocess
import sys

BELOW = {"data": ["import", "info", "head", "convert", "get"], "cache": ["info", "verify", "estimate", "pack", "merge", "repair", "prune", "diff", "export", "stats"]}
OPTION = re.compile(r"^ +(-\S.*?)(?: {2,}(.*))?$")


def help_of(kd, *words):
    env = {**os.environ, "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "COLUMNS": "200"}
    return subprocess.run([kd, *words, "--help"], check=True, capture_output=True, text=True, env=env).stdout


def roff(text):
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...")
    return "\\&" + text if text[:1] in ".'" else text


def block(lines):
    """Indented text stays as it is; the rest is a paragraph."""
    out = []
    for line in lines:
        if line.startswith(" "):
            if not out or out[-1] != ".fi":
                out.append(".PP")
                out.append(".nf")
            else:
                out.pop()
            out += [roff(line), ".fi"]
        elif line.strip():
            if out and (out[-1] == ".fi"):
                out.append(".PP")
            out.append(roff(line))
        else:
            out.append(".PP")
    while out and out[-1] == ".PP":
        out.pop()
    return out


def sections(text):
    """usage, what it does, options, what follows them."""
    usage, before, options, after, state = "", [], [], [], "before"
    lines = text.splitlines()
    skip = False
    for i, line in enumerate(lines):
        if line.startswith("Usage:"):
            usage = line[6:].strip() or lines[i + 1].strip()
            skip = not line[6:].strip()
        elif skip:
            skip = False
        elif re.match(r"^(Help Options|Application Options|Options):$", line):
            state = "options"
        elif state == "options" and OPTION.match(line):
            options.append(OPTION.match(line).groups())
        elif state == "options" and line.startswith(" ") and options and line.strip():
            options[-1] = (options[-1][0], ((options[-1][1] or "") + " " + line.strip()).strip())
        elif state == "options" and line.strip():
            state = "after"
            after.append(line)
        elif state == "after":
            after.append(line)
        elif state == "before":
            before.append(line)
    return usage, before, options, after


def body(text):
    usage, before, options, after = sections(text)
    out = block(before)
    if options:
        out.append(".SH OPTIONS")
        for name, what in options:
            out += [".TP", ".B " + roff(name), roff(what or "")]
    if any(line.strip() for line in after):
        out += [".SH NOTES"] + block(after)
    return usage, out


def page(kd, name, what, version, see):
    usage, out = body(help_of(kd, *([name] if name else [])))
    title = "kd-" + name if name else "kd"
    text = [f'.\\" Made by tools/man/make-man.py from {title.replace("-", " ")} --help', f'.TH {title.upper()} 1 "" "kdstream {version}"', ".SH NAME", f"{title} \\- {roff(what)}",
            ".SH SYNOPSIS", ".B " + roff(usage), ".SH DESCRIPTION", *out]
    for below in BELOW.get(name, []):
        usage, out = body(help_of(kd, name, below))
        text += [f".SH {name.upper()} {below.upper()}", ".B " + roff(usage), ".PP"] + [line.replace(".SH", ".SS") for line in out]
    if name:
        text += [".SH EXIT STATUS", "0 done, 1 the run failed, 2 wrong usage, 130 interrupted."]
    text += [".SH SEE ALSO", ", ".join(f"{roff(s)}(1)" for s in see)]
    return "\n".join(text) + "\n"


def main():
    check = "--check" in sys.argv
    kd, folder = [a for a in sys.argv[1:] if a != "--check"]
    version = subprocess.run([kd, "--version"], check=True, capture_output=True, text=True).stdout.split()[-1]
    commands = re.findall(r"^  (\w+) +(\S.*)$", help_of(kd).split("Options:")[0].split("Commands:")[1], re.M)
    pages = {"kd.1": page(kd, "", "distil knowledge from teacher models into students", version, ["kd-" + c for c, _ in commands] + ["gst-launch-1.0"])}
    for name, what in commands:
        pages[f"kd-{name}.1"] = page(kd, name, what, version, ["kd"])
    stale = []
    for file, text in pages.items():
        path = os.path.join(folder, file)
        if check:
            if not os.path.exists(path) or open(path, encoding="utf-8").read() != text:
                stale.append(file)
        else:
            with open(path, "w", encoding="utf-8") as f:
                f.write(text)
    if stale:
        sys.exit(f"not what the program says now: {' '.join(stale)}; run tools/man/make-man.py KD tools/man")


main()
