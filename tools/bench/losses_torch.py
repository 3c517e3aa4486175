"""The losses of `kd bench losses` in plain PyTorch, as one would write them.

Arguments: FOLDER ROWS SIZE THREADS REPEATS LOSS... The folder holds student.f32, teacher.f32, label.i64 and for each loss its first gradient rows,
LOSS.grad.f32, as kdstream made them. Prints one JSON object: for each loss seconds of one forward and backward pass in eager mode (and compiled,
with PyTorch 2), the value, and how far the gradient is from the same formula in float64, relative to its largest entry.
"""
import json
import math
import os
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F

POINTS = 128  # rows of a transport problem
TOP = 64  # ids of the sparse teacher
KNOWN = {}


def forward_kl(s, t, label):
    return F.kl_div(F.log_softmax(s, 1), F.log_softmax(t, 1), reduction="batchmean", log_target=True)


def reverse_kl(s, t, label):
    return F.kl_div(F.log_softmax(t, 1), F.log_softmax(s, 1), reduction="batchmean", log_target=True)


def mixture(p, q, share):
    return torch.logsumexp(torch.stack([p + math.log(share), q + math.log1p(-share)]), 0)


def jsd(s, t, label):
    q, p = F.log_softmax(s, 1), F.log_softmax(t, 1)
    m = mixture(p, q, 0.5)
    return 0.5 * F.kl_div(m, p, reduction="batchmean", log_target=True) + 0.5 * F.kl_div(m, q, reduction="batchmean", log_target=True)


def skew(s, t, label):
    q, p = F.log_softmax(s, 1), F.log_softmax(t, 1)
    return F.kl_div(mixture(p, q, 0.1), p, reduction="batchmean", log_target=True)


def tvd(s, t, label):
    return 0.5 * (F.softmax(s, 1) - F.softmax(t, 1)).abs().sum(1).mean()


def known(t):
    """Ids and log-probabilities of the sparse teacher: made once, as a cache's are."""
    key = (t.data_ptr(), t.dtype)
    if key not in KNOWN:
        KNOWN[key] = F.log_softmax(t, 1).topk(min(TOP, t.shape[1] // 2))
    return KNOWN[key]


def topk(s, t, label):
    logp, ids = known(t)
    logq = F.log_softmax(s, 1).gather(1, ids)
    p_rest, q_rest = 1 - logp.exp().sum(1), 1 - logq.exp().sum(1)
    return ((logp.exp() * (logp - logq)).sum(1) + p_rest * (p_rest.log() - q_rest.log())).mean()


def ce(s, t, label):
    return F.cross_entropy(s, label)


def hinton(s, t, label):
    kd = F.kl_div(F.log_softmax(s / 4, 1), F.log_softmax(t / 4, 1), reduction="batchmean", log_target=True) * 16
    return 0.1 * F.cross_entropy(s, label) + 0.9 * kd


def dkd(s, t, label):
    # the target against the rest, and the rest among itself; masked out with a number that float32 keeps, as in the paper's code
    target = F.one_hot(label, s.shape[1])
    q, p = F.softmax(s / 4, 1), F.softmax(t / 4, 1)
    q_t, p_t = (q * target).sum(1), (p * target).sum(1)
    binary = p_t * (p_t.log() - q_t.log()) + (1 - p_t) * (torch.log1p(-p_t) - torch.log1p(-q_t))
    others = F.kl_div(F.log_softmax(s / 4 - 1000.0 * target, 1), F.log_softmax(t / 4 - 1000.0 * target, 1), reduction="batchmean", log_target=True)
    return 16 * (binary.mean() + 8 * others)


def pld(s, t, label):
    key = t.scatter(1, label[:, None], float("inf"))
    order = key.argsort(dim=1, descending=True)
    chosen, weight = s.gather(1, order), F.softmax(t, 1).gather(1, order)
    rest = chosen.flip(1).logcumsumexp(1).flip(1)
    return (weight * (rest - chosen)).sum(1).mean()


def sinkhorn(s, t, label):
    x, y = F.softmax(s[:POINTS] / 2, 1), F.softmax(t[:POINTS] / 2, 1)
    cost = torch.cdist(x, y, p=1)
    plan = torch.exp(-cost / 0.1)
    for _ in range(20):
        plan = plan / plan.sum(1, keepdim=True)
        plan = plan / plan.sum(0, keepdim=True)
    return (plan * cost).sum()


LOSSES = {"fkl": forward_kl, "rkl": reverse_kl, "jsd": jsd, "skew-fkl": skew, "tvd": tvd, "topk": topk, "ce": ce, "hinton": hinton, "dkd": dkd, "pld": pld, "sinkhorn": sinkhorn}


def step(loss, s, t, label):
    s.grad = None
    value = loss(s, t, label)
    value.backward()
    return value


def seconds(loss, s, t, label, repeats):
    times = []
    step(loss, s, t, label)
    for _ in range(repeats):
        start = time.perf_counter()
        step(loss, s, t, label)
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def distance(loss, ours, s, t, label, n):
    """Of the gradient's first rows from float64's; coefficients are 1 / n."""
    rows = len(ours)
    together = loss is sinkhorn  # a sum over all of its rows; the others are means of single rows
    used = min(POINTS, n) if together else rows
    s = s[:used].detach().double().requires_grad_()
    (loss(s, t[:used].double(), label[:used]) * (1 if together else rows / n)).backward()
    rows = min(rows, used)
    return float((ours[:rows].double() - s.grad[:rows]).abs().max() / s.grad[:rows].abs().max())


def main():
    folder, n, v, threads, repeats = sys.argv[1], *map(int, sys.argv[2:6])
    torch.set_num_threads(threads)
    s = torch.from_numpy(np.fromfile(os.path.join(folder, "student.f32"), np.float32).reshape(n, v)).requires_grad_()
    t = torch.from_numpy(np.fromfile(os.path.join(folder, "teacher.f32"), np.float32).reshape(n, v))
    label = torch.from_numpy(np.fromfile(os.path.join(folder, "label.i64"), np.int64))
    result = {"version": torch.__version__}
    for name in sys.argv[6:]:
        loss = LOSSES[name]
        ours = torch.from_numpy(np.fromfile(os.path.join(folder, name + ".grad.f32"), np.float32).reshape(-1, v))
        result[name] = {"seconds": seconds(loss, s, t, label, repeats), "value": float(step(loss, s, t, label).detach()),
                        "distance": distance(loss, ours, s, t, label, n)}
        if int(torch.__version__.split(".")[0]) >= 2:
            result[name]["compiled"] = seconds(torch.compile(loss), s, t, label, repeats)
    print(json.dumps(result))


main()
