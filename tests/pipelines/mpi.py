#!/usr/bin/python3
"""Training and reading by several processes (mpirun), and srun-like shares without MPI. Arguments: kd, mpirun, the digits' batch file."""
import json
import os
import subprocess
import sys
import tempfile
import time

import h5py
import numpy as np

kd, mpirun, digits = (os.path.abspath(path) for path in sys.argv[1:4])
alone = dict(os.environ, OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive", OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
folder = tempfile.mkdtemp(prefix="kdtest-")
os.chdir(folder)


def run(command, env=alone, timeout=120):
    return subprocess.run(command, env=env, timeout=timeout, capture_output=True, text=True)


def launch(n, pipeline, *options):
    start = [mpirun, "--oversubscribe", "-n", str(n)] if n > 1 else []
    return run(start + [kd, "launch", *options, pipeline])


def training(batch, save, epochs=3, more=""):
    return (f"kdh5src location={digits} count=1003 epochs={epochs} shuffle=true seed=1 batch-size={batch} ! "
            f'kdstudent arch="mlp dims=64,32,10" seed=3 save={save} ! kdce ! kdtrain name=t report-every=4 learning-rate=0.01 {more}')


def reports(path):
    lines = [json.loads(line) for line in open(f"{path}/metrics.jsonl")]
    return [line for line in lines if line["message"] == "kd-report"]


def same_losses():
    """1003 rows over 4 ranks: shares and last batches differ in size; every report says the same as one process says."""
    for n, batch in ((1, 48), (4, 12)):
        done = launch(n, training(batch, f"w{n}.st"), "--report", f"r{n}")
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("Report:") == 1, done.stdout  # one process speaks
    one, four = reports("r1"), reports("r4")
    assert len(one) == len(four) > 10, (len(one), len(four))
    for a, b in zip(one, four):
        assert a["step"] == b["step"] and a["samples"] == b["samples"], (a, b)
        for key in ("loss", "loss.kdce", "grad-norm"):
            assert abs(a[key] - b[key]) <= 1e-5 * abs(a[key]), (key, a, b)


def resume():
    """Half, then the other half from the checkpoint: the bits of a run in one piece."""
    whole = launch(2, training(24, "whole.st", 4))
    half = launch(2, training(24, "half.st", 2, "checkpoint=c"))
    rest = launch(2, training(24, "rest.st", 4, "checkpoint=c resume=true"))
    assert whole.returncode == half.returncode == rest.returncode == 0, (whole.stderr, half.stderr, rest.stderr)
    assert open("whole.st", "rb").read() == open("rest.st", "rb").read()
    assert open("whole.st", "rb").read() != open("half.st", "rb").read()


def a_dead_rank_ends_the_job():
    began = time.monotonic()
    script = f"[ $OMPI_COMM_WORLD_RANK = 1 ] && (sleep 2; kill -9 $$) & exec {kd} launch '{training(12, 'dead.st', 100000)}'"
    done = run([mpirun, "--oversubscribe", "-n", "2", "sh", "-c", script])
    assert done.returncode != 0 and time.monotonic() - began < 60, done.stderr


def a_failing_rank_ends_the_job():
    script = f"[ $OMPI_COMM_WORLD_RANK = 1 ] && cd /; exec {kd} launch '{training(12, 'x.st').replace(digits, 'link.h5')}'"
    os.symlink(digits, "link.h5")
    done = run([mpirun, "--oversubscribe", "-n", "2", "sh", "-c", script])
    assert done.returncode != 0 and "link.h5" in done.stdout + done.stderr, done.stderr


def refusals():
    few = launch(4, training(1, "few.st").replace("count=1003", "count=3"))
    assert few.returncode != 0 and "Fewer rows than processes" in few.stderr, few.stderr
    slurm = dict(alone, SLURM_PROCID="1", SLURM_STEP_NUM_TASKS="3")
    done = run([kd, "launch", training(12, "slurm.st")], slurm)
    assert done.returncode == 1 and "Processes cannot sum" in done.stderr and "mpirun" in done.stderr, done.stderr


def one_file_a_rank():
    done = launch(3, f"kdh5src location={digits} count=100 batch-size=7 ! kdh5sink location=own.h5")
    assert done.returncode == 0, done.stderr
    assert not os.path.exists("own.h5") and len([name for name in os.listdir(".") if name.startswith("own.h5")]) == 3
    ids = [h5py.File(f"own.h5.rank-{rank}-of-3")["sample.id"][:] for rank in range(3)]
    assert [len(one) for one in ids] == [34, 33, 33] and sorted(np.concatenate(ids)) == list(range(100))


def one_error():
    """What all processes have to say is said by one of them, with its rank; what one has to say is said, too."""
    for pipeline, code, words in (
        ("kdh5src location=missing.h5 ! kdh5sink location=none.h5", 1, "ERROR kdh5src0:"),
        (f"kdh5src location={digits} ! kdhinton ! kdh5sink location=none.h5", 1, "ERROR kdhinton0:"),
        (f"kdh5src location={digits} ! kdhintonn ! kdh5sink location=none.h5", 1, "there is no element 'kdhintonn'"),
        (f"kdh5src location={digits} batch-size=-5 ! kdh5sink location=none.h5", 1, "batch-size=-5: the value is outside"),
    ):
        for n in (4, 1):
            done = launch(n, pipeline)
            assert done.returncode == code and done.stderr.count(words) == 1 and done.stderr.count("ERROR") == 1, done.stderr
            assert done.stderr.count(" of 4:") == (n == 4), done.stderr
    script = f"[ $OMPI_COMM_WORLD_RANK = 1 ] || exec sleep 20; exec {kd} launch 'kdh5src location=missing.h5 ! kdh5sink location=none.h5'"
    done = run([mpirun, "--oversubscribe", "-n", "2", "sh", "-c", script])
    assert done.returncode == 1 and "From rank 1 of 2:\nERROR kdh5src0:" in done.stderr, done.stderr
    # In one job, one after the other: another error is said again.
    script = f"{kd} launch 'kdh5src location=a.h5 ! kdh5sink location=none.h5'; exec {kd} launch 'kdh5src location=b.h5 ! kdh5sink location=none.h5'"
    done = run([mpirun, "--oversubscribe", "-n", "2", "sh", "-c", script])
    assert done.stderr.count('path="a.h5"') == done.stderr.count('path="b.h5"') == 1, done.stderr


def shares_without_mpi():
    slurm = dict(alone, SLURM_PROCID="1", SLURM_STEP_NUM_TASKS="3")
    pipeline = f"kdh5src location={digits} count=10 batch-size=2 ! kdh5sink location=share.h5"
    assert run([kd, "launch", pipeline], slurm).returncode == 0
    assert np.array_equal(h5py.File("share.h5.rank-1-of-3")["sample.id"][:], [1, 4, 7]) and not os.path.exists("share.h5")
    batch_script = dict(alone, SLURM_PROCID="0", SLURM_NTASKS="3")  # no srun: one process, all the rows
    assert run([kd, "launch", pipeline.replace("share", "all")], batch_script).returncode == 0
    assert np.array_equal(h5py.File("all.h5")["sample.id"][:], range(10))


for test in (same_losses, resume, a_dead_rank_ends_the_job, a_failing_rank_ends_the_job, refusals, one_file_a_rank, one_error, shares_without_mpi):
    test()
    print(test.__name__)
subprocess.run(["rm", "-rf", folder])
