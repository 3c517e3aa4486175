"""What the reference cases share: drawing inputs, which rows count, and writing a case file.

Everything here and in the files beside it is float64 torch, written from the equations of the papers; gradients come from
automatic differentiation. Nothing of kdstream's C code is used."""
import json
import os
import zlib

import h5py
import numpy as np
import torch

F64 = torch.float64


def t(x):
    return torch.as_tensor(np.asarray(x)).to(F64)


class Draw:
    """Inputs of a case, float32 as files hold them; the seed is the case's name."""

    def __init__(self, name):
        self.r = np.random.default_rng(zlib.crc32(name.encode()))

    def logits(self, *shape, scale=1.5):
        return (self.r.standard_normal(shape) * scale).astype(np.float32)

    def mask(self, *shape, share=0.7):
        m = (self.r.random(shape) < share).astype(np.uint8)
        m.flat[0] = 1
        return m

    def labels(self, c, *shape):
        return self.r.integers(0, c, shape).astype(np.int64)

    def weights(self, *shape):
        return (0.2 + self.r.random(shape)).astype(np.float32)

    def soft(self, *shape):
        p = self.r.random(shape) + 0.05
        return (p / p.sum(-1, keepdims=True)).astype(np.float32)


def coefficients(shape, mask=None, weight=None, reduction="token-mean", num_items=1.0, factor=1.0):
    """Each row's coefficient in the loss, [shape]; rows without one are 0."""
    v = np.ones(shape) if mask is None else (np.broadcast_to(np.asarray(mask) != 0, shape)).astype(float)
    c = v * (1 if weight is None else np.where(v > 0, weight, 0.0))
    if reduction == "seq-mean":
        n = v.reshape(shape[0], -1).sum(1)
        live = max((n > 0).sum(), 1)
        c = c / np.maximum(n, 1).reshape((-1,) + (1,) * (len(shape) - 1)) / live
    else:
        c = c / {"token-mean": max(v.sum(), 1), "sum": 1.0, "batch": shape[0], "num-items": num_items}[reduction]
    return t(c * factor)


def total(coef, value):
    """sum of coef x value over the rows that have one; the others may hold anything."""
    return torch.where(coef != 0, coef * torch.where(coef != 0, value, torch.zeros_like(value)), torch.zeros_like(coef)).sum()


def leaf(x):
    return t(x).clone().requires_grad_()


def clean(x):
    """NaN of rows that do not count -> 0."""
    return np.where(np.isfinite(x), x, 0)


def grads(loss, **inputs):
    """{"grad.<field>": ...}; field names with dots come as underscores doubled: student__logits."""
    if not loss.requires_grad:  # no row counts
        return {"grad." + k.replace("__", "."): torch.zeros_like(x) for k, x in inputs.items()}
    values = torch.autograd.grad(loss, list(inputs.values()), allow_unused=True)
    return {"grad." + k.replace("__", "."): (torch.zeros_like(x) if g is None else g) for (k, x), g in zip(inputs.items(), values)}


OUT = os.environ.get("KD_VECTORS_OUT", os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))


def plain(x):
    """As numpy; what is rounding of a 0 becomes 0."""
    x = x.detach().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)
    return np.where(np.abs(x) < 1e-15, 0.0, x) if x.dtype == np.float64 else x


def put(group, fields):
    for k, v in fields.items():
        group[k] = plain(v)


def write(method, name, element, properties, fields, expected, rtol=1e-5, atol=1e-6, note=""):
    """One case; with lists of fields and expected, a sequence of steps."""
    folder = os.path.join(OUT, method)
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, name + ".h5")
    with h5py.File(path, "w", libver="latest") as h:
        h.attrs.update(method=method, element=element, properties=json.dumps(properties), source="tests/vectors/reference, float64 autograd", note=note)
        h.attrs.update(rtol=rtol, atol=atol)
        if isinstance(fields, list):
            for i, (f, e) in enumerate(zip(fields, expected)):
                put(h.create_group(f"step.{i}"), f)
                put(h.create_group(f"step.{i}/expected"), e)
        else:
            put(h, fields)
            put(h.create_group("expected"), expected)
    os.chmod(path, 0o644)


def lsm(x, temperature=1.0):
    return torch.log_softmax(x / temperature, -1)


def entropy(l):
    return -(l.exp() * torch.where(l.exp() > 0, l, torch.zeros_like(l))).sum(-1)


def kl(lp, lq):
    """sum p (log p - log q), 0 where p = 0."""
    p = lp.exp()
    return torch.where(p > 0, p * (lp - lq), torch.zeros_like(p)).sum(-1)


def cross(lq, target):
    """- sum target log q, 0 where target = 0."""
    return -torch.where(target > 0, target * lq, torch.zeros_like(lq)).sum(-1)


def onehot(y, c):
    return torch.nn.functional.one_hot(torch.as_tensor(np.where(np.asarray(y) < 0, 0, y)), c).to(F64)
