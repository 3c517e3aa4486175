#!/usr/bin/env python3
"""Runs the fuzz targets of a build with -Dfuzz=true, one after the other, and says what came out.

    tests/fuzz/run.py BUILD [--minutes N] [--target NAME]...

The time is shared among the targets. What is learnt stays in BUILD/fuzz/corpus/TARGET, so that the next run goes on from there; inputs that fail are
BUILD/fuzz/findings/TARGET-*. Of h5-raw's, those that fail inside libhdf5 are counted apart (README.md). Exit code: 0 nothing found, 1 something.
"""
import argparse
import os
import pathlib
import re
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
# Shares of the time: where the most code and the slowest inputs are.
TARGETS = {"batch": 5, "cache": 5, "h5-raw": 4, "manifest": 2, "import": 2, "safetensors": 1, "recipe": 1, "layout": 1, "launch": 1, "spec": 1}
ENVIRONMENT = dict(os.environ, OMP_NUM_THREADS="1", G_SLICE="always-malloc", UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1",
                   LSAN_OPTIONS=f"suppressions={HERE / 'lsan.supp'}:print_suppressions=0")
LIMITS = ["-rss_limit_mb=4096", "-timeout=25"]


def environment(**asan):
    options = dict(allocator_may_return_null=1, detect_leaks=0, handle_abort=1, handle_sigtrap=1) | asan
    return dict(ENVIRONMENT, ASAN_OPTIONS=":".join(f"{k}={v}" for k, v in options.items()))


def fuzz(program, corpus, seeds, findings, log, seconds, forked):
    how = ["-fork=1", "-ignore_crashes=1", "-ignore_ooms=1", "-ignore_timeouts=1"] if forked else ["-print_final_stats=1", "-detect_leaks=0"]
    with open(log, "wb") as out:
        done = subprocess.run([program, *how, *LIMITS, f"-max_total_time={int(seconds)}", f"-artifact_prefix={findings}/{program.name[5:]}-", corpus, *seeds],
                              env=environment(), stdout=out, stderr=subprocess.STDOUT)
    return log.read_bytes().decode(errors="replace"), done.returncode


def executions(text):
    final = re.findall(r"stat::number_of_executed_units: (\d+)", text)
    return int(final[-1]) if final else max((int(n) for n in re.findall(r"^#(\d+)[:\t ]", text, re.M)), default=0)


def coverage(text):
    return max((int(n) for n in re.findall(r"cov: (\d+)", text)), default=0)


def leaks(program, corpus):
    """The corpus once more with the leak checker, which is too slow for all the time."""
    done = subprocess.run([program, "-runs=0", "-detect_leaks=0", corpus], env=environment(detect_leaks=1, fast_unwind_on_malloc=0, malloc_context_size=12),
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    text = done.stdout.decode(errors="replace")
    return text[text.find("LeakSanitizer"):][:3000] if "LeakSanitizer" in text else None


def stack(program, path):
    """Frames of the first stack of an input that fails, and the text; no frames when it does not."""
    done = subprocess.run([program, *LIMITS, path], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    text = done.stdout.decode(errors="replace")
    frames = re.findall(r"^ +#\d+ 0x\w+ +(?:in )?(.*)$", text, re.M) if done.returncode else []
    return frames, text


def is_library(frames):
    """Whether the fault is libhdf5's: what is on top, below the sanitizer's own, is in it."""
    for frame in frames:
        if any(word in frame for word in ("__interceptor", "__sanitizer", "__asan", "fuzzer::", "libc.so", "/libc", "/sysdeps/", "libglib", "malloc (")):
            continue
        return "libhdf5" in frame or "libsz" in frame or "libaec" in frame
    return False


def triage(program, findings, forked):
    ours, library = [], {}
    for path in sorted(findings.glob(f"{program.name[5:]}-*")):
        if path.name.endswith(".txt"):
            continue
        frames, text = stack(program, path)
        if forked and not frames:  # heavy, not wrong; or gone when alone
            continue
        if forked and is_library(frames):
            names = [m[1] for f in frames if (m := re.match(r"(\w+) \(.*libhdf5", f))]
            library[names[0] if names else "?"] = library.get(names[0] if names else "?", 0) + 1
            path.unlink()
        else:
            path.with_name(path.name + ".txt").write_text(text)
            ours.append(path.name)
    return ours, library


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--target", action="append", choices=TARGETS)
    options = parser.parse_args()
    names = options.target or list(TARGETS)
    work = options.build.resolve() / "fuzz"
    findings = work / "findings"
    findings.mkdir(parents=True, exist_ok=True)
    bad = False
    print(f"{'target':<12} {'seconds':>7} {'executions':>11} {'a second':>9} {'coverage':>9} {'corpus':>7}  findings", flush=True)
    for name in names:
        program, corpus = options.build.resolve() / "tests/fuzz" / f"fuzz-{name}", work / "corpus" / name
        corpus.mkdir(parents=True, exist_ok=True)
        seconds = options.minutes * 60 * TARGETS[name] / sum(TARGETS[n] for n in names)
        began = time.monotonic()
        seeds = [HERE / kind / name for kind in ("seeds", "found") if (HERE / kind / name).is_dir()]
        text, code = fuzz(program, corpus, seeds, findings, work / f"{name}.log", seconds, name == "h5-raw")
        took = time.monotonic() - began
        ours, library = triage(program, findings, name == "h5-raw")
        if code and not ours and name != "h5-raw":
            ours = [f"ended with {code}: {work / name}.log"]
        leak = leaks(program, corpus) if name != "h5-raw" else None
        what = ", ".join(ours + ([f"leak:\n{leak}"] if leak else [])) or "none"
        if library:
            what += "; in libhdf5: " + ", ".join(f"{k} {v}" for k, v in sorted(library.items()))
        print(f"{name:<12} {took:>7.0f} {executions(text):>11} {executions(text) / took:>9.0f} {coverage(text):>9} {len(list(corpus.iterdir())):>7}  {what}", flush=True)
        bad |= bool(ours or leak)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
