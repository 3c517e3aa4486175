"""Losses over tokens: methods/taid, adakd, decoupled-kl, tsd-kd, switch-kd, swing, align-ti."""
import numpy as np
import torch

from case import Draw, clean, coefficients, cross, entropy, grads, kl, leaf, lsm, onehot, t, total, write
from llm import divergence


def valid_rows(f):
    shape = f["student.logits"].shape[:-1]
    v = np.ones(shape, bool)
    if "mask" in f:
        v &= f["mask"] != 0
    if "label" in f:
        v &= f["label"] != -100
    return shape, v


class Taid:
    def __init__(self, t_start=0.4, t_end=1.0, alpha=5e-4, beta=0.99, adaptive=True, total_steps=10, step_source="internal", loss_form="ce", lm_weight=0.0, reduction="token-mean", weight=1.0):
        self.__dict__.update(locals())
        self.props = {k.replace("_", "-"): v for k, v in locals().items() if k != "self"}
        self.t, self.m, self.prev, self.k = t_start, 0.0, None, 0

    def step(self, f):
        s, q = f["student.logits"], t(f["teacher.logits"])
        skip = np.isinf(s) | np.isinf(f["teacher.logits"])
        z = leaf(np.where(np.isfinite(s), s, 0))
        ls = lsm(torch.where(torch.as_tensor(np.isfinite(s)), z, t(-np.inf)))
        u = torch.where(torch.as_tensor(skip), t(-np.inf), (1 - self.t) * z.detach() + self.t * torch.where(torch.isfinite(q), q, t(0.0)))
        p = torch.log_softmax(u, -1)
        shape, v = valid_rows(f)
        coef = coefficients(shape, v, f.get("token.weight"), self.reduction)
        safe = torch.where(torch.as_tensor(skip), t(0.0), ls)
        ce = cross(safe, p.exp())
        j = total(coef, ce - (entropy_of(p) if self.loss_form == "kl" else 0))
        lm = total(coef, cross(ls, onehot(f["label"], s.shape[-1]))) if self.lm_weight > 0 else t(0.0)
        loss = self.weight * (self.lm_weight * lm + (1 - self.lm_weight) * j)
        g = grads(loss, student__logits=z)
        out = {"loss": loss, "loss.taid": self.weight * j, "taid.t": self.t, **{k: torch.where(torch.as_tensor(skip), t(0.0), x) for k, x in g.items()}}
        k = int(f["train.step"]) if self.step_source == "field" else self.k
        delta, value = 0.0, float(j)
        if v.any():
            if self.prev is None:
                self.prev = value
            else:
                rel = min(max((self.prev - value) / (self.prev + 1e-15), -1e6), 1e6)
                self.m = self.beta * self.m + (1 - self.beta) * rel
                line = self.t_start + (self.t_end - self.t_start) * min(k / self.total_steps, 1)
                delta = self.alpha / (1 + np.exp(np.minimum(-self.m, 700))) * (1 - self.t)
                self.t = min(self.t_end, max(line, self.t + delta)) if self.adaptive else line
                self.prev = value
        self.k += 1
        out.update({"taid.t-next": self.t, "taid.delta-t": delta, "taid.momentum": self.m})
        if self.prev is not None:
            out["taid.prev-loss"] = self.prev
        return out


def entropy_of(l):
    p = l.exp()
    return -torch.where(p > 0, p * l.masked_fill(p == 0, 0), torch.zeros_like(p)).sum(-1)


def taid(name, steps, **kw):
    m = Taid(**kw)
    write("taid", name, "kdtaid", m.props, steps, [m.step(f) for f in steps], atol=2e-6)


def taid_steps(d, n, shape=(2, 3, 7), **more):
    out = []
    for i in range(n):
        f = {"student.logits": d.logits(*shape, scale=2.0 / (1 + 0.3 * i)), "teacher.logits": d.logits(*shape)}
        f.update({k: v(i) for k, v in more.items()})
        out.append(f)
    return out


def all_taid():
    d = Draw("taid")
    mask = lambda i: d.mask(2, 3)
    taid("kl_form", taid_steps(d, 4, mask=mask), loss_form="kl", alpha=0.1, beta=0.5)
    taid("lm_weight", taid_steps(d, 3, label=lambda i: np.where(d.r.random((2, 3)) < 0.3, -100, d.labels(7, 2, 3))), lm_weight=0.3, alpha=0.05)
    taid("beyond_total_steps", taid_steps(d, 6), total_steps=3, adaptive=False, t_start=0.1, t_end=0.8)
    taid("step_from_field", taid_steps(d, 5, **{"train.step": lambda i: np.int64(i // 2 * 3)}), step_source="field", alpha=0.02, total_steps=8)
    steps = taid_steps(d, 4, mask=mask)
    steps[0]["mask"][:] = steps[2]["mask"][:] = 0
    taid("masked_first_and_third", steps, alpha=0.3, beta=0.0)
    taid("weights_seq_mean", taid_steps(d, 3, mask=mask, **{"token.weight": lambda i: d.weights(2, 3)}), reduction="seq-mean", weight=0.25, alpha=0.2)
    taid("classes", taid_steps(d, 3, shape=(5, 4)), t_start=0.0, alpha=1.0)
    inf = taid_steps(d, 3, shape=(3, 6))
    for f in inf:
        f["student.logits"][0, 2] = f["teacher.logits"][1, 3] = f["student.logits"][2, 4] = f["teacher.logits"][2, 4] = -np.inf
    taid("infinite", inf, t_start=0.3, alpha=0.9)
    same = taid_steps(d, 3, shape=(3, 5))
    for f in same[:2]:
        f["teacher.logits"] = f["student.logits"].copy()
    same[2]["student.logits"] = same[2]["student.logits"] * 1.5
    taid("previous_loss_0", same, loss_form="kl", alpha=0.5, beta=0.0)


class Adakd:
    def __init__(self, divergence="rkl", beta=0.1, alpha=0.1, indicator="hellinger", latf=True, idts=True, base_temperature=1.0, c=0.5, tau_scale=True, ema_decay=0.99, epsilon=0.05, delta=0.05,
                 min_ratio=0.1, warmup_steps=0, ratio_fixed=0.0, kd_ratio=1.0):
        self.__dict__.update(locals())
        self.props = {k.replace("_", "-"): v for k, v in locals().items() if k != "self"}
        self.r, self.ema, self.ref, self.step_no = 1.0, None, None, 0

    def step(self, f):
        z, q = leaf(clean(f["student.logits"])), t(clean(f["teacher.logits"]))
        shape, v = valid_rows(f)
        flat = np.flatnonzero(v)
        n = len(flat)
        zr, qr = z.reshape(-1, z.shape[-1]), q.reshape(-1, q.shape[-1])
        lp, lq = lsm(qr), lsm(zr).detach()
        s = {"hellinger": lambda: torch.sqrt(((lp / 2).exp() - (lq / 2).exp()).pow(2).sum(-1)) / np.sqrt(2), "fkl": lambda: kl(lp, lq), "rkl": lambda: kl(lq, lp),
             "ce": lambda: cross(lq, onehot(f["label"].ravel(), z.shape[-1]))}[self.indicator]().numpy()
        ratio = self.ratio_fixed or (self.r if self.latf else 1.0)
        diff, temp, sel = np.zeros(v.size), np.zeros(v.size), np.zeros(v.size, np.uint8)
        loss = 0 * z.sum()
        l_ada = t(0.0)
        if n:
            k = max(1, int(np.floor(n * ratio)))
            diff[flat] = s[flat]
            i = flat[np.argsort(-s[flat], kind="stable")[:k]]
            med = np.sort(s[i])[(k - 1) // 2]
            tau = self.base_temperature * np.exp(-self.c * np.tanh(np.log(np.maximum(s[i] / med, 1e-8)))) if med > 0 and self.idts else np.full(k, self.base_temperature)
            temp[i], sel[i] = tau, 1
            x = t(tau)[:, None]
            kw = {"kind": self.divergence, "beta": self.beta, "alpha": self.alpha}
            d = divergence(torch.log_softmax(qr[i] / x, -1), torch.log_softmax(zr[i] / x, -1), **kw)
            l_ada = ((t(tau) ** 2 if self.tau_scale else 1) * d).sum() / k
            loss = self.kd_ratio * l_ada
            if self.kd_ratio < 1:
                loss = loss + (1 - self.kd_ratio) * cross(lsm(zr), onehot(f["label"].ravel(), z.shape[-1]))[flat].mean()
            self.latf_step(float(l_ada))
        out = {"loss": loss, "loss.adakd": l_ada, "adakd.ratio": ratio, "adakd.ratio-next": self.ratio_fixed or (self.r if self.latf else 1.0), "adakd.ema": -1.0 if self.ema is None else self.ema,
               "adakd.ref": -1.0 if self.ref is None else self.ref}
        out.update({"token.difficulty": diff.reshape(shape), "token.temperature": temp.reshape(shape), "token.selected": sel.reshape(shape), **grads(loss, student__logits=z)})
        return out

    def latf_step(self, loss):
        self.step_no += 1
        self.ema = loss if self.step_no == 1 else self.ema_decay * self.ema + (1 - self.ema_decay) * loss
        if self.ref is None:
            self.ref = self.ema if self.step_no > self.warmup_steps else None
            return
        d = self.ref - self.ema
        if d < -self.epsilon * self.ref:
            self.r, self.ref = min(1, self.r * (1 + self.delta)), self.ema
        elif d > 0 and d > self.epsilon * self.ref:
            self.r, self.ref = max(self.min_ratio, self.r * (1 - self.delta)), self.ema


def adakd(name, steps, **kw):
    m = Adakd(**kw)
    write("adakd", name, "kdadakd", m.props, steps, [m.step(f) for f in steps], atol=5e-6)


def all_adakd():
    d = Draw("adakd")

    def steps(n, label=False, shape=(2, 6, 8)):
        out = []
        for i in range(n):
            f = {"student.logits": d.logits(*shape, scale=2.0 - 0.3 * i), "teacher.logits": d.logits(*shape), "mask": d.mask(*shape[:-1])}
            if label:
                f["label"] = np.where(d.r.random(shape[:-1]) < 0.2, -100, d.labels(shape[-1], *shape[:-1]))
            out.append(f)
        return out

    fast = dict(ema_decay=0.2, delta=0.3, epsilon=0.01)
    for kind in ("fkl", "rkl", "jsd", "skew-fkl", "skew-rkl", "tvd"):
        adakd("divergence_" + kind, steps(4), divergence=kind, beta=0.3, alpha=0.2, **fast)
    for ind in ("fkl", "rkl", "ce"):
        adakd("indicator_" + ind, steps(3, label=True), indicator=ind, **fast)
    adakd("kd_ratio", steps(3, label=True), kd_ratio=0.6, **fast)
    adakd("inverse_no_tau_scale", steps(3), c=-0.5, tau_scale=False, base_temperature=2.0, **fast)
    adakd("no_idts", steps(3), idts=False, **fast)
    adakd("no_latf", steps(3), latf=False, **fast)
    adakd("ratio_fixed", steps(3), ratio_fixed=0.4, **fast)
    adakd("warmup", steps(5), warmup_steps=2, **fast)
    masked = steps(4)
    masked[0]["mask"][:] = masked[2]["mask"][:] = 0
    adakd("all_masked_first_and_third", masked, **fast)
    adakd("one_token", steps(2, shape=(1, 1, 5)))
    rows = steps(2, shape=(6, 5))
    adakd("classes", rows, min_ratio=0.5, **fast)
    same = steps(2)
    same[0]["teacher.logits"][:, 1:] = same[0]["student.logits"][:, 1:]
    same[0]["mask"][:] = 1
    adakd("most_matched_median_0", same, divergence="fkl", **fast)


def klmix(name, f, lam=0.25, temperature=1.0, estimator="exact", clip=0.0, **kw):
    z, q = leaf(clean(f["student.logits"])), t(clean(f["teacher.logits"]))
    shape, v = valid_rows(f)
    coef = coefficients(shape, v, f.get("token.weight"), **kw)
    lp, lq = lsm(q, temperature), lsm(z, temperature)
    if estimator == "exact":
        fwd, rev = total(coef, kl(lp, lq)), total(coef, kl(lq, lp))
    else:
        y = onehot(f["label"], z.shape[-1])
        ly, ty = (lq * y).sum(-1), (lp * y).sum(-1)
        r = (ty - ly).detach()
        r = r.clamp(-clip, clip) if clip > 0 else r
        fwd, rev = total(coef, -ly), total(coef, -r * ly)
    loss = (1 - lam) * fwd + lam * rev
    h = entropy(lq)[coef != 0]
    props = {"lambda": lam, "temperature": temperature, "estimator": estimator, "reward-clip": clip, **{k.replace("_", "-"): x for k, x in kw.items()}}
    write("decoupled-kl", name, "kdklmix", props, f, {"loss": loss, "loss.forward": fwd, "loss.reverse": rev, "student.entropy": h.mean() if len(h) else 0.0, **grads(loss, student__logits=z)}, atol=2e-6)


def all_klmix():
    d = Draw("klmix")
    f = {"student.logits": d.logits(2, 5, 8), "teacher.logits": d.logits(2, 5, 8), "mask": d.mask(2, 5)}
    g = {**f, "label": np.where(d.r.random((2, 5)) < 0.2, -100, d.labels(8, 2, 5))}
    for lam in (0.0, 0.4, 1.0):
        klmix(f"exact_{lam}", f, lam, temperature=2.0)
        klmix(f"sampled_{lam}", g, lam, temperature=1.5, estimator="sampled", clip=0.7)
    klmix("exact_labels_seq_mean", g, 0.3, reduction="seq-mean")
    klmix("all_masked", {**f, "mask": np.zeros((2, 5), np.uint8)})
    klmix("saturated", {"student.logits": d.logits(3, 6, scale=20), "teacher.logits": d.logits(3, 6, scale=20)}, 0.5)


def lengate(name, lengths, h_min, batches):
    stage, frozen, total_h, n, fields, out = 0, 0, 0.0, 0, [], []
    for split, mask, logits in batches:
        f = {"mask": mask, "split": np.int64(split)}
        m, h = mask.copy(), -1.0
        if split == 0:
            m = (mask * (np.cumsum(mask != 0, 1) <= lengths[stage])).astype(mask.dtype)
        elif split == 1:
            f["student.logits"] = logits
            e = entropy(lsm(t(clean(logits)))).numpy()[mask != 0]
            total_h, n = total_h + e.sum(), n + len(e)
        else:
            if n:
                h = total_h / n
                if not frozen and h >= h_min:
                    stage = min(stage + 1, len(lengths) - 1)
                elif h < h_min:
                    frozen = 1
            total_h, n = 0.0, 0
        fields.append(f)
        out.append({"mask": m, "curriculum.length": np.int64(lengths[stage]), "curriculum.stage": np.int64(stage), "curriculum.frozen": np.int64(frozen), **({"curriculum.entropy": h} if split == 2 else {})})
    write("decoupled-kl", name, "kdlengate", {"lengths": ",".join(map(str, lengths)), "h-min": h_min}, fields, out)


def all_lengate():
    d = Draw("lengate")
    m = lambda: d.mask(2, 9)
    wide, sharp = (lambda: d.logits(2, 9, 6, scale=0.1)), (lambda: d.logits(2, 9, 6, scale=30))
    lengate("lengate_grows_to_the_end", [2, 3, 5], 1.0, [(0, m(), 0), (1, m(), wide()), (2, m(), 0), (0, m(), 0), (2, m(), 0), (1, m(), wide()), (2, m(), 0), (0, m(), 0), (1, m(), wide()), (2, m(), 0), (0, m(), 0)])
    lengate("lengate_freezes_for_good", [1, 4], 0.9, [(0, m(), 0), (1, m(), sharp()), (2, m(), 0), (1, m(), wide()), (2, m(), 0), (0, m(), 0)])
    none = np.zeros((2, 9), np.uint8)
    lengate("lengate_no_probe_tokens", [1, 4], 0.5, [(0, none, 0), (1, none, wide()), (2, m(), 0), (0, m(), 0)])


def swing_cache(name, f, tau_min=2.0, tau_max=20.0, noise="laplace", epsilon=10.0, sensitivity=2.0, scope="private", threshold=0.5):
    pi, live = f["token.privacy"].astype(np.float64), f.get("mask", np.ones(f["token.privacy"].shape)) != 0
    tau = tau_min + (tau_max - tau_min) * pi
    q = torch.softmax(t(f["teacher.logits"]) / t(tau)[..., None], -1).numpy()
    s = {"all": np.ones_like(pi), "private": (pi >= threshold).astype(float), "graded": pi}[scope]
    if noise != "none":
        shifted = np.maximum(q + (sensitivity / epsilon * s)[..., None] * f["rng.noise"], 0)
        total_q = shifted.sum(-1, keepdims=True)
        q = np.where(total_q > 0, shifted / np.where(total_q > 0, total_q, 1), 1 / q.shape[-1])
    props = {"tau-min": tau_min, "tau-max": tau_max, "noise": noise, "epsilon": epsilon, "sensitivity": sensitivity, "noise-scope": scope, "threshold": threshold}
    write("swing", name, "kdswingcache", props, f, {"teacher.probs": np.where(live[..., None], q, 0.0), "teacher.temperature": np.where(live, tau, 0.0)})


def all_swing_cache():
    d = Draw("swingcache")

    def fields(*shape, v=9):
        return {"teacher.logits": d.logits(*shape, v, scale=3.0), "token.privacy": d.r.random(shape).astype(np.float32), "rng.noise": d.r.laplace(size=(*shape, v)).astype(np.float32)}

    for scope in ("private", "graded", "all"):
        swing_cache("cache_laplace_" + scope, fields(2, 5), scope=scope, epsilon=25.0)
    swing_cache("cache_gaussian", {**fields(3, 4), "mask": d.mask(3, 4)}, noise="gaussian", scope="graded", tau_max=50.0)
    swing_cache("cache_none", fields(4), noise="none", tau_min=1.0, tau_max=1.0)
    gone = fields(2, 3, v=4)
    gone["rng.noise"] = -np.abs(gone["rng.noise"]) - 9
    swing_cache("cache_noised_away", gone, scope="all")


def main():
    all_swing_cache()
    all_taid()
    all_adakd()
    all_klmix()
    all_lengate()


if __name__ == "__main__":
    main()
