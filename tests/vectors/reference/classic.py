"""Hinton, DKD, DIST, NKD, logit MSE, features: methods/classic-kd."""
import numpy as np
import torch

from case import Draw, clean, coefficients, cross, grads, kl, leaf, lsm, onehot, t, total, write

M = "classic-kd"


def standardized(z):
    mean, sigma = z.mean(-1, keepdim=True), z.std(-1, keepdim=True)
    return (z - mean) / (sigma + 1e-7)


def hinton(name, fields, temperature=4.0, ce=0.1, kd=0.9, standardize=False, smoothing=0.0, **kw):
    z, q = leaf(clean(fields["student.logits"])), t(clean(fields["teacher.logits"]))
    c = z.shape[-1]
    target = t(fields["label.soft"]) if "label.soft" in fields else onehot(fields["label"], c)
    if "label.soft" not in fields:
        target = (1 - smoothing) * target + smoothing / c
    valid = fields.get("mask")
    if "label" in fields:
        valid = (fields["label"] != -100) * (1 if valid is None else valid)
    coef = coefficients(z.shape[:-1], valid, fields.get("token.weight"), **kw)
    s, u = (standardized(z), standardized(q)) if standardize else (z, q)
    l_ce = total(coef, cross(lsm(z), target))
    l_kd = temperature**2 * total(coef, kl(lsm(u, temperature), lsm(s, temperature)))
    loss = ce * l_ce + kd * l_kd
    props = {"temperature": temperature, "ce-weight": ce, "kd-weight": kd, "standardize": standardize, "label-smoothing": smoothing}
    props.update({k.replace("_", "-"): v for k, v in kw.items()})
    write(M, name, "kdhinton", props, fields, {"loss": loss, "loss.ce": l_ce, "loss.kd": l_kd, **grads(loss, student__logits=z)})


def all_hinton():
    d = Draw("hinton")
    mask = d.mask(3, 4)
    masked = {"student.logits": d.logits(3, 4, 6), "teacher.logits": d.logits(3, 4, 6), "label": d.labels(6, 3, 4), "mask": mask, "token.weight": d.weights(3, 4)}
    masked["student.logits"][mask == 0] = np.nan
    masked["label"][0, 0], masked["mask"][0, 1] = -100, 1
    masked["student.logits"][0, 1] = d.logits(6)
    for r in ("token-mean", "seq-mean", "sum", "batch"):
        hinton("hinton_tokens_" + r, masked, temperature=2.0, reduction=r)
    hinton("hinton_soft_n4_c5", {"student.logits": d.logits(4, 5), "teacher.logits": d.logits(4, 5), "label.soft": d.soft(4, 5)}, smoothing=0.0)
    hinton("hinton_standardize_tokens", {k: v for k, v in masked.items()}, temperature=3.0, kd=9.0, standardize=True)
    none = {k: v.copy() for k, v in masked.items()}
    none["mask"][:] = 0
    hinton("hinton_all_masked", none)
    hinton("hinton_one_class", {"student.logits": d.logits(3, 1), "teacher.logits": d.logits(3, 1), "label": d.labels(1, 3)})
    big = {"student.logits": np.array([[1e30, -1e30, 0], [0, 1e30, 1e30]], np.float32), "teacher.logits": np.array([[1e30, 0, 0], [1e30, 1e30, 0]], np.float32), "label": np.array([0, 2])}
    big["teacher.logits"][1] = [0, 1e30, 1e30]
    big["label"][1] = 1
    hinton("hinton_1e30", big, temperature=1.0)


def split(z, y, temperature):
    """log (p_y, 1 - p_y) and the log-softmax over the other classes, the target's entry -inf."""
    l = z / temperature
    target = onehot(y, z.shape[-1]).bool()
    rest = torch.logsumexp(l.masked_fill(target, -np.inf), -1, keepdim=True)
    every = torch.logsumexp(l, -1, keepdim=True)
    binary = torch.cat([(l * target).sum(-1, keepdim=True) - every, rest - every], -1)
    return binary, (l - rest).masked_fill(target, -np.inf), target


def others_kl(lt, ls, target):
    d = torch.where(target, torch.zeros_like(ls), lt.exp() * (lt.masked_fill(target, 0) - ls.masked_fill(target, 0)))
    return d.sum(-1)


def dkd(name, fields, temperature=4.0, alpha=1.0, beta=8.0, ce=1.0, warmup=0):
    z, q, y = leaf(clean(fields["student.logits"])), t(fields["teacher.logits"]), fields["label"]
    coef = coefficients(z.shape[:-1], fields.get("mask"))
    bs, ps, target = split(z, y, temperature)
    bt, pt, _ = split(q, y, temperature)
    ramp = min(1 / warmup, 1) if warmup else 1
    tckd, nckd = kl(bt, bs), others_kl(pt, ps, target)
    l_ce = total(coef, cross(lsm(z), target.to(torch.float64)))
    l_t, l_n = temperature**2 * total(coef, tckd), temperature**2 * total(coef, nckd)
    loss = ce * l_ce + ramp * (alpha * l_t + beta * l_n)
    props = {"temperature": temperature, "alpha": alpha, "beta": beta, "ce-weight": ce, "warmup-epochs": warmup}
    write(M, name, "kddkd", props, fields, {"loss": loss, **grads(loss, student__logits=z)})


def nkd(name, fields, temperature=1.0, gamma=1.5, ce=1.0):
    z, q, y = leaf(clean(fields["student.logits"])), t(fields["teacher.logits"]), fields["label"]
    coef = coefficients(z.shape[:-1], fields.get("mask"))
    _, ps, target = split(z, y, temperature)
    _, pt, _ = split(q, y, temperature)
    log_p = (lsm(z) * target).sum(-1)
    t_y = (lsm(q).exp() * target).sum(-1)
    other = torch.where(target, torch.zeros_like(ps), pt.exp() * ps.masked_fill(target, 0)).sum(-1)
    loss = ce * total(coef, -log_p) + total(coef, -t_y * log_p) - gamma * temperature**2 * total(coef, other)
    write(M, name, "kdnkd", {"temperature": temperature, "gamma": gamma, "ce-weight": ce}, fields, {"loss": loss, **grads(loss, student__logits=z)})


def rho(u, v, axis):
    u, v = u - u.mean(axis, keepdim=True), v - v.mean(axis, keepdim=True)
    nu, nv = (u * u).sum(axis), (v * v).sum(axis)
    nu = torch.where(nu > 0, torch.sqrt(torch.where(nu > 0, nu, torch.ones_like(nu))), torch.zeros_like(nu))
    return (u * v).sum(axis) / (nu * torch.sqrt(nv) + 1e-8)


def dist(name, fields, temperature=1.0, beta=1.0, gamma=1.0):
    z, q = leaf(clean(fields["student.logits"])), t(fields["teacher.logits"])
    keep = torch.as_tensor(fields["mask"] != 0) if "mask" in fields else torch.ones(z.shape[:-1], dtype=torch.bool)
    ys, yt = lsm(z, temperature).exp()[keep], lsm(q, temperature).exp()[keep]
    inter = temperature**2 * (1 - rho(ys, yt, 1).mean())
    intra = temperature**2 * (1 - rho(ys, yt, 0).mean())
    loss = beta * inter + gamma * intra
    write(M, name, "kddist", {"temperature": temperature, "beta": beta, "gamma": gamma}, fields,
          {"loss": loss, "loss.inter": inter, "loss.intra": intra, **grads(loss, student__logits=z)}, rtol=1e-4)


def mse(name, fields, reduction="element", center=False):
    z, q = leaf(clean(fields["student.logits"])), t(fields["teacher.logits"])
    coef = coefficients(z.shape[:-1], fields.get("mask"))
    a, b = (z - z.mean(-1, keepdim=True), q - q.mean(-1, keepdim=True)) if center else (z, q)
    loss = total(coef, ((a - b) ** 2).sum(-1)) / (z.shape[-1] if reduction == "element" else 1)
    write(M, name, "kdlogitmse", {"reduction": reduction, "center": center}, fields, {"loss": loss, **grads(loss, student__logits=z)})


def all_logits():
    d = Draw("classic logits")
    rows = {"student.logits": d.logits(5, 6), "teacher.logits": d.logits(5, 6), "label": d.labels(6, 5)}
    tokens = {"student.logits": d.logits(2, 4, 7), "teacher.logits": d.logits(2, 4, 7), "label": d.labels(7, 2, 4), "mask": d.mask(2, 4)}
    two = {"student.logits": d.logits(4, 2), "teacher.logits": d.logits(4, 2), "label": d.labels(2, 4)}
    dkd("dkd_tokens", tokens, temperature=2.0)
    dkd("dkd_two_classes", two)
    dkd("dkd_warmup_first_epoch", rows, warmup=20)
    nkd("nkd_t2_tokens", tokens, temperature=2.0, gamma=0.5, ce=0.3)
    nkd("nkd_two_classes", two)
    plain = {k: v for k, v in rows.items() if k != "label"}
    dist("dist_tokens", {k: v for k, v in tokens.items() if k != "label"}, temperature=2.0, gamma=3.0)
    dist("dist_one_row", {k: v[:1] for k, v in plain.items()}, temperature=4.0, beta=2.0, gamma=2.0)
    mse("mse_batch", plain, reduction="batch")
    mse("mse_center_tokens", {k: v for k, v in tokens.items() if k != "label"}, center=True)


def unit(x, floor=1e-12):
    n = (x * x).sum(-1, keepdim=True)
    n = torch.where(n > 0, torch.sqrt(torch.where(n > 0, n, torch.ones_like(n))), torch.zeros_like(n))
    return x / n.clamp(min=floor)


def smooth_l1(x):
    return torch.where(x.abs() < 1, 0.5 * x * x, x.abs() - 0.5)


def distances(x):
    d2 = ((x[:, None] - x[None]) ** 2).sum(-1).clamp(min=1e-12)
    d = torch.sqrt(d2) * (1 - torch.eye(len(x), dtype=torch.float64))
    return d / d[d > 0].mean()


def angles(x):
    e = x[None] - x[:, None]
    n = (e * e).sum(-1, keepdim=True)
    e = e / torch.where(n > 0, torch.sqrt(torch.where(n > 0, n, torch.ones_like(n))), torch.zeros_like(n)).clamp(min=1e-12)
    return torch.einsum("ijd,ikd->ijk", e, e)


def features(name, element, props, fields, loss_of, rtol=1e-4):
    s = next(k for k in fields if k.startswith("student."))
    x = leaf(fields[s])
    loss = loss_of(x, t(next(v for k, v in fields.items() if k.startswith("teacher."))))
    write(M, name, element, props, fields, {"loss": loss, **grads(loss, **{s.replace(".", "__"): x})}, rtol=rtol)


def attention(x, power):
    return unit((x.abs() ** power).mean(1).flatten(1))


def similarity(x):
    return unit(x.flatten(1) @ x.flatten(1).T)


def crd(s, q, temperature, symmetric):
    m = unit(s) @ unit(q).T / temperature
    i = torch.arange(len(s))
    rows = torch.nn.functional.cross_entropy(m, i)
    return (rows + torch.nn.functional.cross_entropy(m.T, i)) / 2 if symmetric else rows


def all_features():
    d = Draw("classic features")
    pool = torch.nn.functional.avg_pool2d
    maps = {"student.features.map": d.logits(3, 4, 6, 6), "teacher.features.map": d.logits(3, 2, 3, 3)}
    features("attention_pooled", "kdattention", {}, maps, lambda s, q: 1000 * ((attention(pool(s, 2), 2) - attention(q, 2)) ** 2).mean())
    same = {"student.features.map": d.logits(2, 4, 3, 3), "teacher.features.map": d.logits(2, 5, 3, 3)}
    features("attention_power4", "kdattention", {"power": 4, "weight": 1.0}, same, lambda s, q: ((attention(s, 4) - attention(q, 4)) ** 2).mean())
    features("hint_default_weight", "kdhint", {}, {"student.features.aligned": d.logits(3, 2, 5), "teacher.features.hint": d.logits(3, 2, 5)}, lambda s, q: 100 * ((s - q) ** 2).mean())
    embed = {"student.features.embed": d.logits(5, 4), "teacher.features.embed": d.logits(5, 7)}
    features("similarity_default_weight", "kdsimilarity", {}, embed, lambda s, q: 3000 * ((similarity(s) - similarity(q)) ** 2).sum() / 25)
    features("rkd_default_weights", "kdrkd", {}, embed, lambda s, q: 25 * smooth_l1(distances(s) - distances(q)).mean() + 50 * smooth_l1(angles(s) - angles(q)).mean(), rtol=1e-3)
    equal = {"student.features.embed": np.ones((3, 4), np.float32), "teacher.features.embed": np.ones((3, 4), np.float32)}
    write(M, "rkd_equal_points", "kdrkd", {}, equal, {"loss": 0.0, "grad.student.features.embed": np.zeros((3, 4))})
    pair = {"student.features.embed": d.logits(5, 4), "teacher.features.embed": d.logits(5, 4)}
    features("crdlite_one_way", "kdcrdlite", {"temperature": 0.07, "symmetric": False}, pair, lambda s, q: crd(s, q, 0.07, False))
    zero = {k: v.copy() for k, v in pair.items()}
    zero["student.features.embed"][2] = 0
    x, q = leaf(zero["student.features.embed"]), t(zero["teacher.features.embed"])
    g = grads(crd(x, q, 0.1, True), student__features__embed=x)
    g["grad.student.features.embed"][2] = 0
    write(M, "crdlite_zero_row", "kdcrdlite", {}, zero, {"loss": crd(x, q, 0.1, True), **g}, rtol=1e-4, note="a zero row has gradient 0")


def virtual():
    y = np.array([2, 0, 3])
    for a in (0.9, 0.6):
        q = np.full((3, 4), (1 - a) / 3)
        q[np.arange(3), y] = a
        write(M, f"virtualteacher_{a}", "kdvirtualteacher", {"confidence": a, "classes": 4}, {"label": y}, {"teacher.logits": np.log(q)})


def main():
    all_hinton()
    all_logits()
    all_features()
    virtual()


if __name__ == "__main__":
    main()
