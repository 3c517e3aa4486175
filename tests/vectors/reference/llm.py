"""kddivergence dense and sparse, kdlogittopk, kdlogitsample, kdlogitunpack: methods/llm-base-losses."""
import numpy as np
import torch

from case import Draw, clean, coefficients, grads, leaf, lsm, t, total, write

M = "llm-base-losses"
ZERO = torch.zeros((), dtype=torch.float64)


def xlogy(p, d):
    """p d, 0 where p = 0."""
    return torch.where(p > 0, p * torch.where(p > 0, d, torch.zeros_like(d)), torch.zeros_like(p))


def mixed(lp, lq, share):
    """log (share p + (1 - share) q)"""
    if share <= 0:
        return lq
    if share >= 1:
        return lp
    return torch.logaddexp(lp + np.log(share), lq + np.log1p(-share))


def akl_weight(p, q, mu):
    out = np.zeros(p.shape[:-1])
    for i in np.ndindex(*p.shape[:-1]):
        order = np.argsort(-p[i], kind="stable")
        head = np.cumsum(p[i][order]) <= mu
        head[0] = True
        gap = np.abs(p[i] - q[i])[order]
        h, r = gap[head].sum(), gap[~head].sum()
        out[i] = 0.5 if h + r == 0 else h / (h + r)
    return t(out)


def divergence(lp, lq, kind="fkl", beta=0.5, alpha=0.1, lam=0.5, mu=0.5, entropy_term=True):
    """Sum over the outcomes (last axis) of log-probabilities."""
    p, q = lp.exp(), lq.exp()
    fkl = xlogy(p, (lp if entropy_term else ZERO) - lq)
    rkl = xlogy(q, lq - lp)
    if kind == "jsd" and beta in (0, 1):
        kind = "fkl" if beta == 0 else "rkl"
    if kind == "fkl":
        d = fkl
    elif kind == "rkl":
        d = rkl
    elif kind == "jsd":
        m = mixed(lp, lq, beta)
        d = beta * xlogy(p, lp - m) + (1 - beta) * xlogy(q, lq - m)
    elif kind == "skew-fkl":
        d = xlogy(p, (lp if entropy_term else ZERO) - mixed(lp, lq, alpha))
    elif kind == "skew-rkl":
        d = xlogy(q, lq - mixed(lq, lp, alpha))
    elif kind == "tvd":
        d = 0.5 * (p - q).abs()
    elif kind == "sym-kl":
        d = (1 - lam) * fkl + lam * rkl
    elif kind == "akl":
        w = akl_weight(p.detach().numpy(), q.detach().numpy(), mu)[..., None]
        d = w * fkl + (1 - w) * rkl
    return d.sum(-1)


NAMES = {"kind": "divergence", "lam": "lambda"}


def properties(kw, **more):
    return {NAMES.get(k, k).replace("_", "-"): v for k, v in {**kw, **more}.items()}


def rows_of(fields, extra=None):
    shape = fields["student.logits"].shape[:-1]
    valid = np.ones(shape, bool)
    if "mask" in fields:
        valid &= fields["mask"] != 0
    if "label" in fields:
        valid &= fields["label"] != -100
    if extra is not None:
        valid &= extra
    return shape, valid


def finish(name, fields, z, value, temperature, scale, reduction, num_items, weight, props, valid):
    shape = fields["student.logits"].shape[:-1]
    coef = coefficients(shape, valid, fields.get("token.weight"), reduction, num_items, weight * (temperature**2 if scale == "t2" else 1))
    loss = total(coef, value)
    g = grads(loss, student__logits=z)
    write(M, name, "kddivergence", props, fields, {"loss": loss, **g}, atol=5e-6)


def dense(name, fields, temperature=1.0, scale="none", reduction="token-mean", num_items=1.0, weight=1.0, **kw):
    z = leaf(clean(fields["student.logits"]))
    lp, lq = lsm(t(clean(fields["teacher.logits"])), temperature), lsm(z, temperature)
    props = properties(kw, temperature=temperature, temperature_scale=scale, reduction=reduction, num_items=num_items, weight=weight)
    finish(name, fields, z, divergence(lp, lq, **kw), temperature, scale, reduction, num_items, weight, props, rows_of(fields)[1])


KINDS = [dict(kind="fkl"), dict(kind="rkl"), dict(kind="jsd", beta=0.1), dict(kind="jsd", beta=0.0), dict(kind="jsd", beta=1.0), dict(kind="skew-fkl", alpha=0.3), dict(kind="skew-rkl", alpha=0.3),
         dict(kind="tvd"), dict(kind="sym-kl", lam=0.2), dict(kind="akl", mu=0.7)]


def all_dense():
    d = Draw("dense")
    for kw in KINDS:
        tag = "_".join(str(v) for v in kw.values())
        f = {"student.logits": d.logits(2, 5, 11), "teacher.logits": d.logits(2, 5, 11), "mask": d.mask(2, 5), "token.weight": d.weights(2, 5)}
        f["label"] = d.labels(11, 2, 5)
        f["label"][1, 2] = -100
        f["teacher.logits"][f["mask"] == 0] = np.nan
        dense("dense_" + tag, f, temperature=1.7, scale="t2", reduction="seq-mean", weight=0.7, **kw)
        big = {"student.logits": d.logits(6, 5, scale=40), "teacher.logits": d.logits(6, 5, scale=40)}
        big["student.logits"][0], big["teacher.logits"][0] = d.logits(5), d.logits(5)  # the field's scale: saturated rows have no gradient to speak of
        dense("dense_large_" + tag, big, **kw)
    f = {"student.logits": d.logits(3, 4, 7), "teacher.logits": d.logits(3, 4, 7), "mask": d.mask(3, 4)}
    f["mask"][2] = 0
    for r in ("token-mean", "sum", "seq-mean", "batch", "num-items"):
        dense("dense_reduction_" + r, f, kind="jsd", reduction=r, num_items=17.0)
    for kind in ("skew-fkl", "sym-kl", "fkl"):
        dense("dense_no_entropy_" + kind, f, kind=kind, entropy_term=False, temperature=2.0)
    none = {**f, "mask": np.zeros((3, 4), np.uint8)}
    dense("dense_all_masked", none)
    dense("dense_all_masked_seq_mean", none, reduction="seq-mean")
    dense("dense_one_class", {"student.logits": d.logits(3, 1), "teacher.logits": d.logits(3, 1)}, kind="jsd")
    same = {"student.logits": d.logits(4, 6)}
    same["teacher.logits"] = same["student.logits"].copy()
    same["teacher.logits"][3] = d.logits(6)
    for kind in ("akl", "rkl", "tvd", "jsd"):
        dense("dense_equal_" + kind, same, kind=kind)
    zero_weight = {**f, "token.weight": np.zeros((3, 4), np.float32)}
    zero_weight["token.weight"][0, 0] = 2
    dense("dense_weight_0_counts", zero_weight)
    dense("dense_float_mask", {**f, "mask": f["mask"].astype(np.float32) * 0.25})


def infinite():
    """inf-policy=skip: ids with an infinite logit in either model add nothing and get no gradient."""
    d = Draw("infinite")
    for kw in KINDS + [dict(kind="fkl", entropy_term=False), dict(kind="sym-kl", entropy_term=False)]:
        s, q = d.logits(5, 8), d.logits(5, 8)
        s[0, 3] = q[1, 2] = s[2, 4] = q[2, 4] = q[3, 5] = s[3, 6] = -np.inf
        z = leaf(np.where(np.isfinite(s), s, -1e4))
        lq = lsm(torch.where(torch.as_tensor(np.isfinite(s)), z, t(-np.inf)))
        lp = lsm(t(q))
        skip_teacher = not (kw["kind"] == "fkl" and not kw.get("entropy_term", True))
        keep = np.isfinite(s) & (np.isfinite(q) if skip_teacher else True)
        value = []
        for i in range(5):
            k = torch.as_tensor(np.flatnonzero(keep[i]))
            value.append(divergence(lp[i][k], lq[i][k], **kw) if kw["kind"] != "akl" else akl_row(lp[i], lq[i], k, kw["mu"]))
        # an id outside gets no gradient of its own: the softmax's normaliser is a function of the ids kept
        loss = torch.stack(value).mean()
        g = torch.autograd.grad(loss, z)[0]
        yield kw, s, q, loss, torch.where(torch.as_tensor(keep), g, torch.zeros_like(g))


def akl_row(lp, lq, keep, mu):
    return divergence(lp[keep][None], lq[keep][None], kind="akl", mu=mu)[0]


def all_infinite():
    for kw, s, q, loss, g in infinite():
        tag = "_".join(str(v) for v in kw.values())
        write(M, "infinite_" + tag, "kddivergence", properties(kw), {"student.logits": s, "teacher.logits": q}, {"loss": loss, "grad.student.logits": g}, atol=5e-6)


def sparse_rows(ids, s, v, tail, a, eps, label, lq):
    """One row: log p and log q of its outcomes."""
    keep = ids >= 0
    ids, s = ids[keep], t(s[keep])
    rest = max(0.0, 1 - float(s.exp().sum()))
    rest = 0.0 if rest <= eps else rest
    outside = np.setdiff1d(np.arange(v), ids)
    if tail == "truncate":
        w, r = s.exp(), None
    elif tail == "renorm":
        w, r = (a * s).exp() / (a * s).exp().sum(), None
    else:
        z = (a * s).exp().sum() + rest**a * (rest > 0)
        w, r = (a * s).exp() / z, t(rest**a * (rest > 0)) / z
    if tail == "bucket":
        if len(outside) == 0:
            return torch.log(w), lq[ids]
        return torch.log(torch.cat([w, r[None]])), torch.cat([lq[ids], torch.logsumexp(lq[outside], 0)[None]])
    p = torch.zeros(v, dtype=torch.float64)
    p[ids] = w
    if tail == "uniform" and len(outside):
        p[outside] = r / len(outside)
    if tail == "label" and label is not None and 0 <= label < v:
        p[label] = p[label] + r
    return torch.log(p), lq


def topk(name, fields, temperature=1.0, cache_temperature=1.0, tail="bucket", support="full", tail_eps=1e-8, scale="none", **kw):
    ids, s = fields["teacher.topk.ids"], fields["teacher.topk.logprobs"]
    z = leaf(clean(fields["student.logits"]))
    v = z.shape[-1]
    shape, valid = rows_of(fields, (ids >= 0).any(-1))
    lq = lsm(z, temperature)
    value = torch.zeros(shape, dtype=torch.float64)
    for i in np.ndindex(*shape):
        if not valid[i]:
            continue
        if support == "restricted":
            k = ids[i][ids[i] >= 0]
            x = (cache_temperature / temperature) * t(s[i][ids[i] >= 0])
            lp, l = (t(s[i][ids[i] >= 0]) if tail == "truncate" else x - torch.logsumexp(x, 0)), lsm(z[i][k], temperature)
        else:
            lp, l = sparse_rows(ids[i], s[i], v, tail, cache_temperature / temperature, tail_eps, fields["label"][i] if "label" in fields else None, lq[i])
        value[i] = divergence(lp[None], l[None], **kw)[0]
    props = properties(kw, temperature=temperature, cache_temperature=cache_temperature, tail=tail, support=support, tail_eps=tail_eps, temperature_scale=scale)
    finish(name, fields, z, value, temperature, scale, "token-mean", 1.0, 1.0, props, valid)


def topk_fields(d, n, l, v, k, dtype=np.int64, padded=True):
    q = t(d.logits(n, l, v))
    s, ids = torch.topk(lsm(q), k, -1)
    s, ids = s.numpy().astype(np.float32), ids.numpy().astype(dtype)
    if padded:
        ids[0, 1, k - 1] = -1
        s[0, 1, k - 1] = np.nan
        ids[1, 0] = -1
    label = d.labels(v, n, l)
    label[0, 0] = ids[0, 0, 1]
    label[1, 1] = -100
    return {"student.logits": d.logits(n, l, v), "teacher.topk.ids": ids, "teacher.topk.logprobs": s, "mask": d.mask(n, l), "label": label}


def all_topk():
    d = Draw("topk")
    finite = {"fkl", "jsd", "skew-fkl", "skew-rkl", "tvd"}
    for tail in ("renorm", "truncate", "bucket", "uniform", "label"):
        for kw in KINDS:
            needs_all = kw["kind"] not in finite or kw.get("beta") == 1.0
            if needs_all and tail not in ("bucket", "uniform"):
                continue
            topk(f"topk_{tail}_" + "_".join(str(x) for x in kw.values()), topk_fields(d, 2, 4, 11, 4, padded=tail != "uniform" or True), temperature=1.5, cache_temperature=2.0, tail=tail, scale="t2", **kw)
    for kw in KINDS:
        topk("topk_restricted_" + "_".join(str(x) for x in kw.values()), topk_fields(d, 2, 4, 9, 4), temperature=2.0, tail="renorm", support="restricted", **kw)
    f = topk_fields(d, 2, 3, 6, 6, np.int32, padded=False)
    for kw in KINDS:
        topk("topk_k_is_v_" + "_".join(str(x) for x in kw.values()), f, tail="bucket", **kw)
    topk("topk_no_entropy", topk_fields(d, 2, 4, 9, 3), tail="bucket", entropy_term=False)
    wide = topk_fields(d, 2, 4, 9, 3)
    topk("topk_tail_eps", wide, tail="bucket", tail_eps=0.5)


def sampled(name, fields, normalize=False, entropy_term=True, temperature=1.0):
    ids, w = fields["teacher.sampled.ids"], fields["teacher.sampled.weights"]
    z = leaf(clean(fields["student.logits"]))
    shape, valid = rows_of(fields, (ids >= 0).any(-1))
    lq = lsm(z, temperature)
    value = torch.zeros(shape, dtype=torch.float64)
    for i in np.ndindex(*shape):
        k = ids[i][ids[i] >= 0]
        x = t(w[i][ids[i] >= 0])
        if normalize and len(k):
            x = x / x.sum()
        value[i] = xlogy(x, (torch.log(x) if entropy_term else torch.zeros_like(x)) - lq[i][k]).sum()
    props = {"normalize": normalize, "entropy-term": entropy_term, "temperature": temperature, "teacher-form": "sampled"}
    finish(name, fields, z, value, temperature, "none", "token-mean", 1.0, 1.0, props, valid)


def draw(q, u, power, temperature):
    """Ids and weights of one row from its uniform numbers."""
    p = lsm(t(q), temperature).exp().numpy()
    r = p**power
    r = r / r.sum()
    c = np.cumsum(r)
    ids = np.minimum(len(p) - 1, (c[None] <= (u * c[-1])[:, None]).sum(1))
    uniq, count = np.unique(ids, return_counts=True)
    w = count / len(u) * (p / r)[uniq]
    pad = len(u) - len(uniq)
    return np.concatenate([uniq, np.full(pad, -1)]), np.concatenate([w, np.zeros(pad)])


def all_sampled():
    d = Draw("sampled")
    for power, temperature in ((0.8, 1.0), (1.2, 2.0), (0.0, 1.0), (1.0, 0.5)):
        q, u = d.logits(2, 3, 12), d.r.random((2, 3, 20))
        drawn = [[draw(q[i, j], u[i, j], power, temperature) for j in range(3)] for i in range(2)]
        ids, w = np.array([[x[0] for x in r] for r in drawn]), np.array([[x[1] for x in r] for r in drawn])
        write(M, f"sampler_power{power}_t{temperature}", "kdlogitsample", {"draws": 20, "proposal-power": power, "temperature": temperature, "rng": "field"},
              {"teacher.logits": q, "rng.uniform": u}, {"teacher.sampled.ids": ids.astype(np.int64), "teacher.sampled.weights": w})
        f = {"student.logits": d.logits(2, 3, 12), "teacher.sampled.ids": ids.astype(np.int64), "teacher.sampled.weights": w.astype(np.float32), "mask": d.mask(2, 3)}
        sampled(f"sampled_power{power}", f, temperature=temperature)
        sampled(f"sampled_normalized_power{power}", f, normalize=True, temperature=temperature)
        sampled(f"sampled_no_entropy_power{power}", f, entropy_term=False, temperature=temperature)


def online(name, fields, k, source, tail, temperature=1.0, **kw):
    z = leaf(clean(fields["student.logits"]))
    q = t(fields["teacher.logits"])
    shape, valid = rows_of(fields)
    lp, lq = lsm(q, temperature), lsm(z, temperature)
    value = torch.zeros(shape, dtype=torch.float64)
    for i in np.ndindex(*shape):
        best = lambda x: set(np.argsort(-x.detach().numpy(), kind="stable")[:k])
        ids = {"teacher": best(q[i]), "student": best(z[i]), "union": best(q[i]) | best(z[i])}[source]
        ids = np.array(sorted(ids))
        out = np.setdiff1d(np.arange(z.shape[-1]), ids)
        if tail == "renorm":
            a, b = lp[i][ids] - torch.logsumexp(lp[i][ids], 0), lq[i][ids] - torch.logsumexp(lq[i][ids], 0)
        elif len(out):
            a, b = (torch.cat([x[i][ids], torch.logsumexp(x[i][out], 0)[None]]) for x in (lp, lq))
        else:
            a, b = lp[i][ids], lq[i][ids]
        value[i] = divergence(a[None], b[None], **kw)[0]
    props = properties(kw, temperature=temperature, top_k=k, support_source=source, tail=tail)
    finish(name, fields, z, value, temperature, "none", "token-mean", 1.0, 1.0, props, valid)


def all_online():
    d = Draw("online")
    for source in ("teacher", "student", "union"):
        for tail in ("bucket", "renorm"):
            for kw in (dict(kind="fkl"), dict(kind="rkl"), dict(kind="jsd", beta=0.5), dict(kind="tvd")):
                f = {"student.logits": d.logits(2, 3, 10), "teacher.logits": d.logits(2, 3, 10), "mask": d.mask(2, 3)}
                online(f"online_{source}_{tail}_{kw['kind']}", f, 3, source, tail, temperature=1.4, **kw)
    f = {"student.logits": d.logits(2, 3, 4), "teacher.logits": d.logits(2, 3, 4)}
    online("online_k_above_v", f, 9, "teacher", "bucket", kind="rkl")


def select():
    d = Draw("select")
    q = np.round(d.logits(3, 4, 9) * 2) / 2  # ties: the lower id first
    for temperature in (1.0, 2.5):
        l = lsm(t(q), temperature)
        ids = np.argsort(-q, -1, kind="stable")[..., :5]
        write(M, f"topk_select_ties_t{temperature}", "kdlogittopk", {"k": 5, "temperature": temperature}, {"teacher.logits": q},
              {"teacher.topk.ids": ids.astype(np.int64), "teacher.topk.logprobs": np.take_along_axis(l.numpy(), ids, -1), "teacher.topk.lse": torch.logsumexp(t(q) / temperature, -1)})


def main():
    all_dense()
    all_infinite()
    all_topk()
    all_sampled()
    all_online()
    select()


if __name__ == "__main__":
    main()
