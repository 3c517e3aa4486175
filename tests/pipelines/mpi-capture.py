#!/usr/bin/python3
"""One cache by several processes (mpirun), killed at any instant; and by srun-like shares and shards without MPI.
Arguments: kd, mpirun, the digits' batch file. KD_KILLS=N sets another number of kills. Batches of one row: larger ones give a matrix product other last bits."""
import glob
import os
import random
import signal
import subprocess
import sys
import tempfile
import time

import h5py
import numpy as np

kd, mpirun, digits = (os.path.abspath(path) for path in sys.argv[1:4])
alone = dict(os.environ, OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive", OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
n_kills = int(os.environ.get("KD_KILLS", "6"))
folder = tempfile.mkdtemp(prefix="kdtest-")
os.chdir(folder)
random.seed(7)
ROWS = 6000


def run(command, env=alone, timeout=120, code=0):
    done = subprocess.run(command, env=env, timeout=timeout, capture_output=True, text=True)
    assert code is None or done.returncode == code, (command, done.returncode, done.stdout, done.stderr)
    return done


def graph(location, more="", source=""):
    return (f'kdh5src location=data.h5 batch-size=1 {source} ! kdteacher arch="mlp dims=64,32,10" weights=t.st ! '
            f"kdcachesink location={location} part-bytes=4000 {more}")


def launch(n, pipeline, code=0):
    start = [mpirun, "--oversubscribe", "-n", str(n)] if n > 1 else []
    return run(start + [kd, "launch", pipeline], code=code)


def samples(done):
    """Of rank 0."""
    lines = [line for line in done.stdout.splitlines() if line.startswith("Done")]
    assert len(lines) == 1, done.stdout
    return int(lines[0].split()[1]) if "samples" in lines[0] else 0


def expect_whole(location, reference="one.h5"):
    run([kd, "cache", "verify", "-q", location])
    assert "complete       yes" in run([kd, "cache", "info", location]).stdout
    assert "same" in run([kd, "cache", "diff", reference, location]).stdout
    left = glob.glob(f"{location}.rank-*") + glob.glob(f"{location}*.removed") + glob.glob(f"{location}.parts/.*")
    assert left == [], left


def share_env(rank, size):
    return dict(alone, SLURM_PROCID=str(rank), SLURM_STEP_NUM_TASKS=str(size))


def prepare():
    with h5py.File(digits) as source, h5py.File("data.h5", "w") as data:
        rows = np.arange(ROWS) % len(source["label"])
        data["input"] = source["input"][:][rows] + (np.arange(ROWS) // len(source["label"]))[:, None].astype("f4").reshape((-1,) + (1,) * (source["input"].ndim - 1)) / 8
        data["sample.id"] = np.arange(ROWS) * 2
        data.attrs["kd.schema"] = "batch/1"
    run([kd, "launch", f'kdh5src location={digits} epochs=2 shuffle=true ! kdstudent arch="mlp dims=64,32,10" save=t.st ! kdce ! kdtrain'])
    launch(1, graph("one.h5"))


def four_are_one():
    done = launch(4, graph("four.h5"))
    assert f"four.h5: {ROWS} rows, of 4 processes' caches" in done.stdout and samples(done) == ROWS // 4, done.stdout
    expect_whole("four.h5")
    again = launch(4, graph("four.h5"), code=None)
    assert again.returncode != 0 and "a cache is there already" in again.stderr and not glob.glob("four.h5.rank*"), again.stderr
    # More rows of the same data: only they are computed; and shuffled in another way, too.
    launch(4, graph("grown.h5", source="count=2000"))
    done = launch(4, graph("grown.h5", "resume=true", "shuffle=true seed=5"))
    assert abs(samples(done) - (ROWS - 2000) / 4) < 200 and samples(done) > 0, done.stdout
    expect_whole("grown.h5")


def encoded():
    launch(1, graph("half1.h5", "encoding=topk k=3"))
    launch(2, graph("half2.h5", "encoding=topk k=3", "count=1000"))
    wrong = launch(2, graph("half2.h5", "encoding=float16 resume=true"), code=None)
    assert wrong.returncode != 0 and "half2.h5" in wrong.stderr, wrong.stderr
    subprocess.run("rm -rf half2.h5.rank*", shell=True, check=True)
    launch(2, graph("half2.h5", "encoding=topk k=3 resume=true"))
    expect_whole("half2.h5", "half1.h5")
    info = [run([kd, "cache", "info", path]).stdout for path in ("half1.h5", "half2.h5")]
    assert f"{ROWS} rows" in info[1] or info[0].count("error") == info[1].count("error"), info


def start_job(n, pipeline):
    for path in glob.glob("pid.*"):
        os.unlink(path)
    script = f"echo $$ >pid.$OMPI_COMM_WORLD_RANK; exec {kd} launch '{pipeline}'"
    return subprocess.Popen([mpirun, "--oversubscribe", "-n", str(n), "sh", "-c", script], env=alone, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def pids():
    return [int(text) for text in (open(path).read().strip() for path in glob.glob("pid.*")) if text]


def kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def gone(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def committed(location):
    total = 0
    for path in [location] + glob.glob(f"{location}.rank-*-of-?"):
        if os.path.exists(f"{path}.parts/manifest.json"):
            total += int(run([kd, "cache", "info", path]).stdout.split("rows")[1].split()[0].rstrip(","))
    return total


def killed_and_resumed():
    """A rank, or all of them, at random instants; then another number of processes goes on."""
    began = time.monotonic()
    launch(4, graph("timed.h5", "resume=true"))
    whole, had_rows, inside = time.monotonic() - began, 0, 0
    for i in range(n_kills):
        job = start_job(4 if i < n_kills - 1 else 3, graph("killed.h5", "resume=true"))
        # Later and later: the last ones come near the end, where the caches are put together.
        time.sleep(whole * (0.3 + 0.7 * random.random()))
        there = pids()
        for pid in there if i % 2 else [random.choice(there)] if there else []:
            kill(pid)
        if i % 2:
            kill(job.pid)
        inside += job.wait(60) != 0
        until = time.monotonic() + 30
        while not all(gone(pid) for pid in there):
            assert time.monotonic() < until, "a rank outlived the job"
            time.sleep(0.05)
        rows = committed("killed.h5")
        assert rows >= had_rows, (rows, had_rows)
        had_rows = rows
    assert inside > 0
    done = launch(2, graph("killed.h5", "resume=true"))
    expect_whole("killed.h5")
    assert samples(done) <= (ROWS - had_rows) / 2 + 200, (samples(done), had_rows)
    alone_again = launch(1, graph("killed.h5", "resume=true"))
    assert samples(alone_again) == 0, alone_again.stdout


def one_goes_on_for_four():
    for rank in range(3):  # of four: one never came to its work
        run([kd, "launch", graph("left.h5")], share_env(rank, 4))
    fresh = launch(1, graph("left.h5"), code=1)
    assert "3 caches that an earlier run of other processes left" in fresh.stderr, fresh.stderr
    assert samples(launch(1, graph("left.h5", "resume=true"))) == ROWS // 4
    expect_whole("left.h5")


def killed_between():
    """What a kill leaves while caches are put together, and while they are taken away."""
    for i in range(4):
        subprocess.run(f"rm -rf b.h5*", shell=True, check=True)
        for rank in range(3):
            run([kd, "launch", graph("b.h5")], share_env(rank, 3))
        inputs = [f"b.h5.rank-{rank}-of-3" for rank in range(3)]
        if i < 2:
            subprocess.run(["timeout", "-s", "KILL", f"{random.uniform(0.01, 0.3):.3f}", kd, "cache", "merge", "--link", "b.h5"] + inputs, env=alone, stdout=subprocess.DEVNULL)
        else:
            run([kd, "cache", "merge", "--link", "b.h5"] + inputs)
            os.rename("b.h5.rank-0-of-3.parts", "b.h5.rank-0-of-3.removed")
            os.unlink("b.h5.rank-0-of-3")
            os.unlink("b.h5.rank-1-of-3")
        done = launch(3 if i % 2 else 2, graph("b.h5", "resume=true"))
        assert samples(done) == 0, done.stdout
        expect_whole("b.h5")


def errors_end_the_job():
    began = time.monotonic()
    for rank_1, wanted in ((graph("elsewhere/x.h5"), "give all the same location"), (graph("y.h5").replace("t.st", "none.st"), "none.st"),
                           (graph("y.h5").replace("t.st", "u.st"), "Caches differ in teacher")):
        os.makedirs("elsewhere", exist_ok=True)
        rank_0 = graph("x.h5" if "elsewhere" in rank_1 else "y.h5", "resume=true" if "u.st" in rank_1 else "")
        if "u.st" in rank_1:
            run([kd, "launch", f'kdh5src location={digits} ! kdstudent arch="mlp dims=64,32,10" save=u.st ! kdce ! kdtrain'])
            run([kd, "launch", graph("y.h5")], share_env(0, 2))
            rank_1 = rank_1 + " resume=true"
        subprocess.run("rm -rf y.h5.rank-1*", shell=True, check=True)
        script = f"[ $OMPI_COMM_WORLD_RANK = 1 ] && exec {kd} launch '{rank_1}'; exec {kd} launch '{rank_0}'"
        done = run([mpirun, "--oversubscribe", "-n", "2", "sh", "-c", script], code=None)
        assert done.returncode != 0 and wanted in done.stderr, (wanted, done.returncode, done.stderr)
    assert time.monotonic() - began < 100


def without_mpi():
    for rank in range(3):
        done = run([kd, "launch", graph("s.h5", "resume=true")], share_env(rank, 3))
    done = run([kd, "launch", graph("s.h5", "resume=true")], share_env(0, 3))
    command = done.stdout.split("when all 3 are done: ")[1].splitlines()[0]
    assert samples(done) == 0 and command == "kd cache merge --move s.h5 s.h5.rank-*-of-3", done.stdout
    refused = run([kd, "launch", graph("s.h5", "resume=true")], share_env(0, 2), code=1)
    assert command in refused.stderr and "without MPI" in refused.stderr, refused.stderr
    run(["sh", "-ec", command.replace("kd ", kd + " ", 1)])
    expect_whole("s.h5")
    for shard in range(2):
        done = launch(1, graph("a b.h5", "", f"shard-index={shard} shard-count=2").replace("location=a b.h5", 'location="a b.h5"'))
        assert samples(done) == ROWS // 2
    run(["sh", "-ec", done.stdout.split("when all 2 are done: ")[1].splitlines()[0].replace("kd ", kd + " ", 1)])
    expect_whole("a b.h5")
    open("text", "w").write("text")
    assert "no cache that can be gone on with" in run([kd, "launch", graph("text", "resume=true")], share_env(0, 3), code=1).stderr
    dry = run([kd, "launch", "--dry-run", graph("dry.h5", "resume=true")], share_env(0, 3))
    assert "teacher.logits" in dry.stdout and not glob.glob("dry.h5*"), dry.stdout


for test in (prepare, four_are_one, encoded, killed_and_resumed, one_goes_on_for_four, killed_between, errors_end_the_job, without_mpi):
    began = time.monotonic()
    test()
    print(f"{test.__name__}: {time.monotonic() - began:.1f} s", flush=True)
subprocess.run(["rm", "-rf", folder])
