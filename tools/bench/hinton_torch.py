"""The student's training of hinton.kd in plain PyTorch, as one would write it: the peer of `kd bench run`.

Arguments: BATCH_FILE TEACHER_CACHE EPOCHS THREADS. Prints one JSON object: seconds of the loop (start-up and a warm-up left out), steps.
"""
import json
import sys
import time

import h5py
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

ROWS, BATCH, T = 200, 50, 4.0


def train(loader, epochs):
    torch.manual_seed(1)
    student = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 16), torch.nn.Tanh(), torch.nn.Linear(16, 10))
    optimizer = torch.optim.AdamW(student.parameters(), lr=0.005, weight_decay=0.0)
    steps = 0
    for _ in range(epochs):
        for x, label, teacher in loader:
            logits = student(x)
            ce = F.cross_entropy(logits, label)
            kd = F.kl_div(F.log_softmax(logits / T, 1), F.softmax(teacher / T, 1), reduction="batchmean") * T * T
            optimizer.zero_grad()
            (0.1 * ce + 0.9 * kd).backward()
            optimizer.step()
            steps += 1
    return steps


def main():
    data, cache, epochs, threads = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    torch.set_num_threads(threads)
    with h5py.File(data, "r") as f:
        x = torch.from_numpy(f["input"][:ROWS]).float() / 255
        label = torch.from_numpy(f["label"][:ROWS])
    with h5py.File(cache, "r") as f:
        order = f["sample.id"][:].argsort()
        teacher = torch.from_numpy(f["teacher.logits"][:][order][:ROWS]).float()
    loader = DataLoader(TensorDataset(x, label, teacher), batch_size=BATCH, shuffle=True)
    train(loader, 5)
    start = time.perf_counter()
    steps = train(loader, epochs)
    print(json.dumps({"seconds": time.perf_counter() - start, "steps": steps, "version": torch.__version__}))


main()
