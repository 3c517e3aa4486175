"""methods/tgeo-kd, lelp, mixup-kd."""
import numpy as np
import torch

from case import Draw, clean, coefficients, cross, grads, kl, leaf, lsm, onehot, t, total, write


def controller(x, w, slope):
    act = torch.nn.functional.leaky_relu
    h = act(x @ w["fc1.weight"].T + w["fc1.bias"], slope)
    h = act(h @ w["fc2.weight"].T + w["fc2.bias"], slope)
    return torch.sigmoid((h @ w["fc3.weight"].T + w["fc3.bias"]).clamp(-30, 30))[:, 0]


def tgeo(name, d, n, c, temperature=1.5, class_mean="table", hidden1=32, hidden2=16, slope=0.01, inner_lr=0.1, relations=("st", "sg", "tg", "inter"), table=None, labels=None, mask=None, jvp=True, big=1.0):
    f = {"student.logits": d.logits(n, c), "teacher.logits": d.logits(n, c), "label": d.labels(c, n) if labels is None else labels}
    if mask is not None:
        f["mask"] = mask
    w = {"fc1.weight": d.logits(hidden1, 9 * c, scale=0.3 * big), "fc1.bias": d.logits(hidden1, scale=0.1), "fc2.weight": d.logits(hidden2, hidden1, scale=0.2), "fc2.bias": d.logits(hidden2, scale=0.1),
         "fc3.weight": d.logits(1, hidden2, scale=0.5), "fc3.bias": d.logits(1, scale=0.1)}
    f.update({"controller." + k: v for k, v in w.items()})
    if class_mean == "table":
        f["teacher.class_mean"] = table if table is not None else d.soft(c, c)
    if jvp:
        f["student.logits.jvp"] = d.logits(n, c, scale=0.5)
    w = {k: leaf(v) for k, v in w.items()}
    z, q, y = leaf(f["student.logits"]), t(f["teacher.logits"]), f["label"]
    S, T, G = lsm(z).exp().detach(), lsm(q).exp(), onehot(y, c)
    live = np.ones(n, bool) if mask is None else mask != 0
    O = torch.full((n, c), 1 / c, dtype=torch.float64)
    for i in range(n):
        if not live[i]:
            continue
        if class_mean == "table":
            row = t(f["teacher.class_mean"][y[i]])
            O[i] = row if float(row.sum()) > 0.5 else 1 / c
        else:
            O[i] = T[torch.as_tensor(live & (y == y[i]))].mean(0)
    on = lambda r, x: x if r in relations else torch.zeros_like(x)
    state = torch.cat([S, T, G, on("inter", O), on("inter", (O - S) ** 2), on("sg", (G - S) ** 2), on("st", (T - S) ** 2), on("tg", (T - G) ** 2), on("inter", (O - G) ** 2)], -1)
    alpha = controller(state, w, slope)
    coef = coefficients((n,), live)
    a = alpha.detach()
    k, e = temperature**2 * kl(lsm(q, temperature), lsm(z, temperature)), cross(lsm(z), G)
    kd, ce = total(coef, k), total(coef, e)  # reported before alpha
    loss = total(coef, a * k + (1 - a) * e)
    out = {"loss": loss, "loss.kd": kd, "loss.ce": ce, "sample.fusion": torch.where(coef != 0, a, torch.zeros_like(a)), **grads(loss, student__logits=z)}
    if mask is None:
        out["state"] = state
    if jvp:  # d outer / d alpha, one plain step unrolled
        p, qq = lsm(z, temperature).exp().detach(), lsm(q, temperature).exp()
        g = -inner_lr * coef * (t(f["student.logits.jvp"]) * (temperature * (p - qq) - (S - G))).sum(-1)
        out["grad.sample.fusion"] = g
        out.update(grads((g * alpha).sum(), **{"controller__" + k.replace(".", "__"): x for k, x in w.items()}))
    props = {"temperature": temperature, "class-mean": class_mean, "hidden1": hidden1, "hidden2": hidden2, "leaky-slope": slope, "inner-lr": inner_lr, "relations": ",".join(relations)}
    write("tgeo-kd", name, "kdtgeo", props, f, out, rtol=5e-4)


def all_tgeo():
    d = Draw("tgeo")
    tgeo("defaults", d, 6, 4)
    tgeo("narrow_controller", d, 5, 3, hidden1=4, hidden2=3, slope=0.2, inner_lr=1.0, temperature=4.0)
    tgeo("class_mean_batch", d, 7, 3, class_mean="batch")
    for r in ("st", "sg", "tg", "inter"):
        tgeo("without_" + r, d, 4, 3, relations=tuple(x for x in ("st", "sg", "tg", "inter") if x != r))
    absent = d.soft(4, 4)
    absent[2] = 0
    tgeo("absent_class", d, 5, 4, table=absent, labels=np.array([2, 0, 2, 3, 1]))
    tgeo("masked", d, 6, 3, mask=np.array([1, 0, 1, 1, 0, 1], np.uint8), class_mean="batch")
    tgeo("no_look_ahead", d, 4, 3, jvp=False)
    tgeo("clamped", d, 5, 3, big=300.0, jvp=False)


def lelp(name, d, n, dim, c, s, temperature=1.0, beta=1.0, ce=0.0, scale=None, labels=True, mask=None):
    f = {"student.logits": d.logits(n, c * s), "teacher.logits": d.logits(n, c), "teacher.features.embed": d.logits(n, dim), "lelp.projector": d.logits(dim, dim, scale=0.4), "lelp.mean": d.logits(c, dim),
         "lelp.directions": d.logits(c, s, dim, scale=0.5)}
    if labels:
        f["label"] = d.labels(c, n)
    if scale is not None:
        f["lelp.scale"] = scale
    if mask is not None:
        f["mask"] = mask
    u = leaf(f["student.logits"])
    x = t(f["teacher.features.embed"]) @ t(f["lelp.projector"]).T
    z = torch.einsum("csd,ncd->ncs", t(f["lelp.directions"]), x[:, None] - t(f["lelp.mean"])[None])
    z = z / (1 if scale is None else torch.where(t(scale) > 0, t(scale), t(1.0))[None, :, None])
    lp = (lsm(t(f["teacher.logits"]), temperature)[..., None] + lsm(z, beta)).reshape(n, -1)
    coef = coefficients((n,), mask)
    kd = temperature**2 * total(coef, kl(lp, lsm(u, temperature)))
    by_class = torch.logsumexp(u.reshape(n, c, s), -1)
    l_ce = total(coef, torch.logsumexp(u, -1) - (by_class * onehot(f["label"], c)).sum(-1)) if ce > 0 else t(0.0)
    loss = ce * l_ce + (1 - ce) * kd
    out = {"loss": loss, "loss.kd": kd, "loss.ce": l_ce, **grads(loss, student__logits=u)}
    if mask is None:
        out.update({"teacher.subclass.probs": lp.exp(), "student.class.logits": by_class})
    write("lelp", name, "kdlelp", {"subclasses": s, "temperature": temperature, "beta": beta, "ce-weight": ce}, f, out, rtol=5e-4)


def fit(name, d, n, dim, c, s, null_space=True, assign="teacher", normalize=False, rotate=False):
    h = (d.logits(n, dim) * (1 + np.arange(dim) / 3)).astype(np.float32)
    w, q, y = d.logits(c, dim), d.logits(n, c), d.labels(c, n)
    own = q.argmax(-1) if assign == "teacher" else y
    p = np.eye(dim)
    if null_space:
        _, sv, vt = np.linalg.svd(w.astype(float))
        vr = vt[: (sv > 1e-6 * sv.max()).sum()]
        p = p - vr.T @ vr
    x = h.astype(float) @ p.T
    mean, direct, scale, var, pvar, sub = [], [], [], [], [], []
    rot = np.stack([np.linalg.qr(d.r.standard_normal((s, s)))[0] for _ in range(c)]).astype(np.float32)
    for i in range(c):
        r = x[own == i]
        mean.append(r.mean(0))
        cov = (r - mean[-1]).T @ (r - mean[-1]) / len(r)
        e, v = np.linalg.eigh(cov)
        v = v[:, ::-1][:, :s]
        v = v * np.sign(v[np.abs(v).argmax(0), np.arange(s)])
        pvar.append(e[::-1][:s])
        sub.append(v @ v.T)
        u = (v @ rot[i]).T if rotate else v.T
        direct.append(u)
        scale.append(np.sqrt(np.trace(v.T @ cov @ v) / s) if normalize else 1.0)
    f = {"teacher.features.embed": h, "teacher.logits": q, "label": y}
    if null_space:
        f["teacher.classifier.weight"] = w
    if rotate:
        f["lelp.rotation"] = rot
    props = {"subclasses": s, "null-space": null_space, "assign": assign, "normalize": normalize, "rotate": rotate}
    write("lelp", name, "kdlelpfit", props, f, {"projector": p, "mean": np.array(mean), "directions": np.array(direct), "scale": np.array(scale), "pca.variance": np.array(pvar), "subspace": np.array(sub)}, rtol=2e-3, atol=1e-4)


def all_lelp():
    d = Draw("lelp")
    lelp("scale", d, 5, 6, 2, 3, temperature=2.0, beta=0.5, scale=np.array([0.7, 2.5], np.float32))
    lelp("scale_0_is_1", d, 5, 6, 2, 3, scale=np.array([0.0, 2.5], np.float32))
    lelp("ce_alone", d, 6, 4, 3, 2, ce=1.0)
    lelp("ce_mixed_masked", d, 6, 4, 3, 2, ce=0.4, temperature=3.0, mask=np.array([1, 0, 1, 1, 0, 1], np.uint8))
    lelp("one_subclass", d, 5, 4, 4, 1, temperature=4.0)
    lelp("no_labels", d, 4, 5, 2, 2, labels=False)
    fit("fit_teacher_assigned", d, 120, 8, 3, 3)
    fit("fit_no_null_space", d, 90, 6, 2, 2, null_space=False, assign="label")
    fit("fit_normalized_rotated", d, 150, 9, 2, 4, normalize=True, rotate=True)


def mixstd(name, f, ce=0.1, kd=0.9, through=True):
    z, q = leaf(clean(f["student.logits"])), t(clean(f["teacher.logits"]))
    c = z.shape[-1]
    y = t(f["label.soft"]) if "label.soft" in f else onehot(f["label"], c)
    var = ((z - z.mean(-1, keepdim=True)) ** 2).sum(-1) / (c - 1)
    flat = var.detach() == 0
    sigma = torch.where(flat, t(1e-8), torch.sqrt(torch.where(flat, t(1.0), var)).clamp(min=1e-8))
    sigma_t = q.std(-1)
    u = z / (sigma if through else sigma.detach())[..., None]
    v = q / sigma_t.clamp(min=1e-8)[..., None]
    coef = coefficients(z.shape[:-1], f.get("mask"))
    l_ce, l_kd = total(coef, cross(lsm(u), y)), total(coef, kl(lsm(v), lsm(u)))
    loss = ce * l_ce + kd * l_kd
    out = {"loss": loss, "loss.ce": l_ce, "loss.kd": l_kd, **grads(loss, student__logits=z)}
    if "mask" not in f:
        out.update({"std.student": torch.where(flat, t(0.0), sigma), "std.teacher": sigma_t})
    write("mixup-kd", name, "kdmixstd", {"ce-weight": ce, "kd-weight": kd, "std-gradient": through}, f, out)


def mixup(name, f, **props):
    p1, p2, lam = f["mixup.perm1"], f["mixup.perm2"], f["mixup.lambda"].astype(float)
    x = f["input"].astype(float)
    wide = lam.reshape((-1,) + (1,) * (x.ndim - 1))
    soft = f.get("label.soft", np.eye(props["classes"])[f["label"]] if "label" in f else None)
    y = lam[:, None] * soft[p1] + (1 - lam[:, None]) * soft[p2]
    write("mixup-kd", name, "kdmixup", {**props, "source": "given"}, f, {"input": wide * x[p1] + (1 - wide) * x[p2], "label.soft": y, "label": y.argmax(-1)})


def all_mixup():
    d = Draw("mixup")
    f = {"student.logits": d.logits(5, 6), "teacher.logits": d.logits(5, 6), "label.soft": d.soft(5, 6)}
    mixstd("std_not_differentiated", f, through=False)
    mixstd("hard_labels", {"student.logits": d.logits(4, 5), "teacher.logits": d.logits(4, 5), "label": d.labels(5, 4)}, ce=1.0, kd=0.5)
    masked = {**f, "student.logits": f["student.logits"].copy(), "mask": np.array([1, 0, 1, 1, 0], np.uint8)}
    masked["student.logits"][1] = np.nan
    mixstd("masked", masked)
    mixstd("scaled_by_10", {**f, "student.logits": f["student.logits"] * 10})
    even = {**f, "teacher.logits": f["teacher.logits"].copy()}
    even["teacher.logits"][2] = 3
    mixstd("uninformative_teacher_row", even)
    g = {"input": d.logits(5, 3), "label": d.labels(4, 5), "mixup.lambda": d.r.random(5).astype(np.float32), "mixup.perm1": d.r.permutation(5), "mixup.perm2": d.r.permutation(5)}
    mixup("given_vectors", g, classes=4)
    mixup("given_soft_labels", {**{k: v for k, v in g.items() if k != "label"}, "label.soft": d.soft(5, 4)}, classes=4)
    mixup("one_row", {k: (v[:1] if k in ("input", "label", "mixup.lambda") else np.zeros(1, np.int64)) for k, v in g.items()}, classes=4)


def main():
    all_tgeo()
    all_lelp()
    all_mixup()


if __name__ == "__main__":
    main()
