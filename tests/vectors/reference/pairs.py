"""methods/tsd-kd, switch-kd, swing, align-ti."""
import numpy as np
import torch

from case import Draw, clean, coefficients, cross, entropy, grads, kl, leaf, lsm, t, total, write
from llm import divergence
from tokens import valid_rows


def tsd(name, f, beta=0.9, temperature=1.0, gate=True, gate_temperature=1.0, candidates=10, opener_fraction=0.1, opener_mode="sample", em_fraction=0.1, em_mode="top", em_weight=1.0, indirect_weight=0.1,
        direct_weight=1.0, pl_order="paper", given=False):
    props = {k.replace("_", "-"): v for k, v in locals().items() if k not in ("name", "f", "given")}
    z, q = leaf(clean(f["student.logits"])), t(clean(f["teacher.logits"]))
    shape, v = valid_rows(f)
    ls, lt = lsm(z, temperature), lsm(q, temperature)
    hs, ht = entropy(ls), entropy(lt)
    h = hs.detach().numpy()
    n = max(v.sum(), 1)
    w = torch.sigmoid((hs - ht).detach() / gate_temperature) if gate else torch.ones(shape, dtype=torch.float64)
    direct = total(coefficients(shape, v), w * divergence(lt, ls, kind="jsd", beta=beta))
    opener = np.zeros(shape, np.uint8)
    if opener_mode == "sample":
        for i in range(shape[0]):
            pos = np.flatnonzero(v[i])
            if not len(pos):
                continue
            c = np.cumsum(h[i][pos])
            m = 1 if c[-1] <= 1e-9 else int(np.argmax(c >= opener_fraction * c[-1])) + 1
            opener[i, pos[:m]] = 1
    elif v.any():
        c = np.cumsum(h[v])
        d = int(np.argmax(c / c[-1] >= opener_fraction))
        opener = (v & (np.arange(shape[1])[None] < d)).astype(np.uint8)
    terms = []
    for i in np.argwhere(opener):
        i = tuple(i)
        k = min(candidates, z.shape[-1])
        cand = np.argsort(-z[i].detach().numpy(), kind="stable")[:k]
        s = z[i][cand[np.argsort(-q[i].numpy()[cand], kind="stable")]] / temperature
        terms.append(sum((torch.logsumexp(s[j:], 0) if pl_order == "paper" else torch.logsumexp(s[: j + 1], 0)) - s[j] for j in range(k)))
    indirect = torch.stack(terms).mean() if terms else 0 * z.sum()
    selected = np.zeros(shape, np.uint8)
    em = 0 * z.sum()
    if v.any():
        threshold = np.quantile(h[v], 1 - em_fraction if em_mode == "top" else em_fraction)
        selected = ((h >= threshold) & (v if em_mode == "top" else True)).astype(np.uint8)
        em = hs[torch.as_tensor(selected != 0)].mean()
    loss = direct_weight * direct + em_weight * em + indirect_weight * indirect
    out = {"loss": loss, "loss.direct": direct, "loss.indirect": indirect, "loss.entropy": em, "token.opener": opener, "token.selected": selected,
           "token.gate": np.where(v, w.numpy(), 0), **grads(loss, student__logits=z)}
    if given:  # the candidates' logits alone
        k = min(candidates, z.shape[-1])
        cand = np.argsort(-np.where(np.isnan(f["student.logits"]), 0, f["student.logits"]), -1, kind="stable")[..., :k]
        f = {**{a: b for a, b in f.items() if a != "teacher.logits"}, "teacher.candidates.logits": np.take_along_axis(f["teacher.logits"], cand, -1)}
        del out["token.gate"]
        del out["loss.direct"]
    write("tsd-kd", name, "kdtsd", props, f, out, rtol=2e-5, atol=2e-6)


def all_tsd():
    d = Draw("tsd")
    f = {"student.logits": d.logits(3, 6, 9), "teacher.logits": d.logits(3, 6, 9), "mask": d.mask(3, 6)}
    f["mask"][1] = 0
    tsd("no_gate_beta_half", f, gate=False, beta=0.5, temperature=2.0, opener_fraction=0.6, em_fraction=0.4)
    tsd("beta_0", f, beta=0.0, gate_temperature=0.3)
    tsd("beta_1", f, beta=1.0, candidates=2)
    tsd("candidates_above_v", f, candidates=50, opener_fraction=1.0, em_fraction=1.0)
    tsd("flat_paper", f, opener_mode="flat", opener_fraction=0.5, em_weight=0.2)
    tsd("flat_empty", f, opener_mode="flat", opener_fraction=0.0001)
    tsd("code_order", f, pl_order="code", opener_fraction=0.7, direct_weight=0.3, indirect_weight=2.0)
    full = {**f, "mask": np.ones((3, 6), np.uint8)}
    tsd("quantile_ge", full, em_mode="quantile-ge", em_fraction=0.3)
    tsd("single_token", {k: x[:1, :1] for k, x in f.items()})
    tsd("all_masked", {**f, "mask": np.zeros((3, 6), np.uint8)})
    labelled = {**{k: x for k, x in f.items() if k != "mask"}, "label": np.where(d.r.random((3, 6)) < 0.4, -100, 1)}
    tsd("labels", labelled)
    tsd("given_candidates", f, direct_weight=0.0, given=True, candidates=4, opener_fraction=0.5)
    sure = {"student.logits": d.logits(2, 4, 5, scale=0.1), "teacher.logits": d.logits(2, 4, 5)}
    sure["student.logits"][0, :, 2] += 900
    tsd("saturated_sample", sure)


def lead(u, other, k, tau, reverse):
    """Of one token: the lead of @u's k largest ids against @other; which of both is the teacher decides the direction outside."""
    ids = np.argsort(-u.detach().numpy(), kind="stable")[:k]
    if k < 2:
        return None
    i, j = np.triu_indices(k, 1)
    return ids[i], ids[j]


def knee(u, tau, curve, window, k_min, k_max):
    x = np.sort(u)[::-1]
    v = x if curve == "logits" else np.sort(torch.softmax(t(u) / tau, 0).numpy())[::-1]
    if window:
        v = v[:window]
    w = len(v)
    if v[0] - v[-1] <= 1e-9:
        return k_min
    y = (v - v[-1]) / (v[0] - v[-1])
    i = int(np.argmax((1 - np.arange(w) / (w - 1)) - y))
    return int(np.clip(i + 1, k_min, min(k_max, len(u))))


def bild(name, f, mode="knee", kind="reverse", top_k=8, temperature=3.0, curve="logits", window=0, k_min=2, k_max=32, student="student.logits", weight=1.0):
    z, q = leaf(clean(f[student])), t(clean(f["teacher.logits"]))
    shape = z.shape[:-1]
    coef = coefficients(shape, f.get("mask"), factor=weight)
    ks = {"teacher": np.zeros(shape, np.int64), "student": np.zeros(shape, np.int64)}
    value = {"teacher": torch.zeros(shape, dtype=torch.float64), "student": torch.zeros(shape, dtype=torch.float64)}
    for i in np.ndindex(*shape):
        if coef[i] == 0:
            continue
        for who, u in (("teacher", q[i]), ("student", z[i])):
            k = top_k if mode == "fixed" else knee(u.detach().numpy(), temperature, curve, window, k_min, k_max)
            ks[who][i] = k
            a, b = lead(u, None, k, temperature, None)
            lt, ls = torch.log_softmax((q[i][a] - q[i][b]) / temperature, 0), torch.log_softmax((z[i][a] - z[i][b]) / temperature, 0)
            value[who][i] = kl(ls, lt) if kind == "reverse" else kl(lt, ls)
    parts = {w: total(coef, x) for w, x in value.items()}
    loss = sum(parts.values())
    props = {"mode": mode, "divergence": kind, "top-k": top_k, "temperature": temperature, "knee-curve": curve, "knee-window": window, "k-min": k_min, "k-max": k_max, "student-field": student, "weight": weight}
    out = {"loss": loss, "loss.teacher-led": parts["teacher"], "loss.student-led": parts["student"], **grads(loss, **{student.replace(".", "__"): z})}
    if mode == "knee":
        out.update({"knee.teacher-k": ks["teacher"], "knee.student-k": ks["student"]})
    write("switch-kd", name, "kdbild", props, f, out, rtol=1e-4)


def all_bild():
    d = Draw("bild")
    f = {"student.logits": d.logits(2, 4, 12), "teacher.logits": d.logits(2, 4, 12), "mask": d.mask(2, 4)}
    for mode in ("fixed", "knee"):
        for kind in ("forward", "reverse"):
            bild(f"{mode}_{kind}", f, mode=mode, kind=kind, top_k=5, weight=0.5)
    bild("knee_window", f, window=6, k_min=3, k_max=5)
    bild("knee_probs", f, curve="probs", temperature=1.0)
    bild("knee_k_max_1st", f, k_max=2)
    bild("switch_branch", {"switch.logits": f["student.logits"], "teacher.logits": f["teacher.logits"], "mask": f["mask"]}, student="switch.logits")
    flat = {k: v.copy() for k, v in f.items()}
    flat["student.logits"][0, 0] = 1.5
    flat["teacher.logits"][0, 1] = 0
    flat["mask"][:] = 1
    bild("constant_logits", flat)
    ties = {"student.logits": np.round(d.logits(2, 3, 9)), "teacher.logits": np.round(d.logits(2, 3, 9))}
    bild("ties", ties, mode="fixed", top_k=4)
    bild("top_k_is_v", ties, mode="fixed", top_k=9, temperature=1.0)
    bild("all_masked", {**f, "mask": np.zeros((2, 4), np.uint8)})


def swing(name, f, tau_min=2.0, tau_max=20.0, noise="laplace", epsilon=10.0, sensitivity=2.0, scope="private", threshold=0.5, scaling="none"):
    z, q = leaf(clean(f["student.logits"])), t(clean(f["teacher.logits"]))
    shape, v = valid_rows(f)
    pi = t(f["token.privacy"])
    tau = tau_min + (tau_max - tau_min) * pi
    p = torch.softmax(q / tau[..., None], -1)
    s = {"all": torch.ones_like(pi), "private": (pi >= threshold).to(pi.dtype), "graded": pi}[scope]
    if noise != "none":
        p = (p + (sensitivity / epsilon * s)[..., None] * t(f["rng.noise"])).clamp(min=0)
        z0 = p.sum(-1, keepdim=True)
        p = torch.where(z0 > 0, p / torch.where(z0 > 0, z0, torch.ones_like(z0)), torch.full_like(p, 1 / p.shape[-1]))
    k = kl(torch.log(p), torch.log_softmax(z / tau[..., None], -1))
    factor = {"none": 1.0, "tau": tau, "tau2": tau**2}[scaling]
    loss = total(coefficients(shape, v), factor * k)
    props = {"tau-min": tau_min, "tau-max": tau_max, "noise": noise, "epsilon": epsilon, "sensitivity": sensitivity, "noise-scope": scope, "threshold": threshold, "scaling": scaling}
    write("swing", name, "kdswing", props, f, {"loss": loss, "token.temperature": tau, **grads(loss, student__logits=z)}, rtol=1e-4)


def all_swing():
    d = Draw("swing")
    f = {"student.logits": d.logits(2, 5, 7), "teacher.logits": d.logits(2, 5, 7), "token.privacy": d.r.random((2, 5)).astype(np.float32), "rng.noise": d.r.laplace(size=(2, 5, 7)).astype(np.float32)}
    masked = {**f, "mask": d.mask(2, 5)}
    for scope in ("private", "graded", "all"):
        for noise in ("laplace", "gaussian"):
            swing(f"{noise}_{scope}", f, noise=noise, scope=scope, threshold=0.3)
    for scaling in ("none", "tau", "tau2"):
        swing("scaling_" + scaling, masked, scaling=scaling, tau_min=1.0, tau_max=5.0)
    swing("noise_none_ignores_draws", f, noise="none")
    gone = {**f, "rng.noise": -np.full((2, 5, 7), 100, np.float32)}
    swing("all_noised_away", gone, epsilon=1.0, scope="all")
    swing("all_masked", {**f, "mask": np.zeros((2, 5), np.uint8)})
    swing("one_temperature", f, tau_min=3.0, tau_max=3.0)
    nll = np.round(d.r.random((3, 40)) * 20).astype(np.float32)
    i = np.array([0, 7, 39])
    own = nll[np.arange(3), i][:, None]
    rank = 1 + (nll < own).sum(1) + 0.5 * ((nll == own).sum(1) - 1)
    write("swing", "exposure_ties", "kdexposure", {}, {"score.nll": nll, "canary.index": i}, {"canary.rank": rank, "canary.exposure": np.log2(40) - np.log2(rank)})


def iva(name, f, kind="forward", temperature=1.0, weight=1.0):
    z, q = leaf(f["student.vision.logits"]), t(f["teacher.vision.logits"])
    a = t(f["teacher.attention"])
    m = t(f["instruction.mask"] != 0) if "instruction.mask" in f else torch.ones(a.shape[0], a.shape[2], dtype=torch.float64)
    a = (a * m[:, None, :, None]).sum((1, 2))
    s = a.sum(-1, keepdim=True)
    omega = torch.where(s > 0, a / torch.where(s > 0, s, torch.ones_like(s)), torch.full_like(a, 1 / a.shape[-1]))
    ls, lt = lsm(z, temperature), lsm(q, temperature)
    d = kl(lt, ls) if kind == "forward" else kl(ls, lt)
    loss = weight * (omega * d).sum(-1).mean()
    write("align-ti", name, "kdiva", {"divergence": kind, "temperature": temperature, "weight": weight}, f, {"loss": loss, "vision.weight": omega, **grads(loss, student__vision__logits=z)}, atol=2e-6)


def tpa(name, f, kind="forward", temperature=1.0, weight=1.0):
    z, q = leaf(clean(f["student.branch.logits"])), t(f["teacher.branch.logits"])
    n, r, k, _ = z.shape
    coef = coefficients((n, r), f.get("mask"), factor=weight / k)[..., None].expand(n, r, k)
    ls, lt = lsm(z, temperature), lsm(q, temperature)
    loss = total(coef, kl(lt, ls) if kind == "forward" else kl(ls, lt))
    write("align-ti", name, "kdtpa", {"divergence": kind, "temperature": temperature, "weight": weight, "branches": k}, f, {"loss": loss, **grads(loss, student__branch__logits=z)}, atol=2e-6)


def ribbon(name, p, r, k, d):
    y, c = d.labels(50, p + r), d.labels(50, r, k)
    tokens, position, cand, gold, branch = list(y[:p]), list(range(p)), [0] * p, list(range(p)), []
    for i in range(r):
        branch.append([])
        for j in range(k):
            branch[-1].append(len(tokens))
            tokens.append(c[i, j]), position.append(p + i), cand.append(1)
        gold.append(len(tokens))
        tokens.append(y[p + i]), position.append(p + i), cand.append(0)
    e = len(tokens)
    i, j = np.arange(e)[:, None], np.arange(e)[None]
    att = ((j <= i) & ((j == i) | (np.array(cand)[None] == 0))).astype(np.uint8)
    i64 = lambda x: np.array(x, np.int64)
    write("align-ti", name, "kdribbon", {"branches": k}, {"input": y, "response.start": np.int64(p), "branch.tokens": c},
          {"ribbon.tokens": i64(tokens), "ribbon.position": i64(position), "ribbon.attention": att, "ribbon.gold-index": i64(gold), "ribbon.branch-index": i64(branch).reshape(r, k)})


def all_align():
    d = Draw("align")
    f = {"student.vision.logits": d.logits(3, 5, 6), "teacher.vision.logits": d.logits(3, 5, 6), "teacher.attention": d.r.random((3, 2, 4, 5)).astype(np.float32), "instruction.mask": d.mask(3, 4)}
    f["teacher.attention"][1] = 0
    iva("iva_reverse", f, kind="reverse", temperature=2.0, weight=0.4)
    iva("iva_no_mask", {k: v for k, v in f.items() if k != "instruction.mask"})
    none = {**f, "instruction.mask": f["instruction.mask"].copy()}
    none["instruction.mask"][2] = 0
    iva("iva_no_instruction", none)
    g = {"student.branch.logits": d.logits(2, 3, 4, 6), "teacher.branch.logits": d.logits(2, 3, 4, 6), "mask": d.mask(2, 3)}
    tpa("tpa_reverse", g, kind="reverse", temperature=0.5, weight=2.0)
    tpa("tpa_no_mask", {k: v for k, v in g.items() if k != "mask"})
    tpa("tpa_all_masked", {**g, "mask": np.zeros((2, 3), np.uint8)})
    pairs = d.r.random((3, 4, 2, 6)).astype(np.float32)
    pairs[1, 2, 0] = 0
    score = []
    for l in pairs.astype(float):
        cos = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in l if a.any() and b.any()]
        score.append(1 - np.mean(cos))
    write("align-ti", "irs_zero_pair", "kdirs", {}, {"attention.pairs": pairs}, {"irs.score": np.array(score), "irs.layer": np.int64(np.argmax(score))})
    ribbon("ribbon_one_branch", 2, 3, 1, d)
    ribbon("ribbon_no_prompt", 0, 3, 2, d)
    ribbon("ribbon_no_branches", 3, 2, 0, d)


def main():
    all_tsd()
    all_bild()
    all_swing()
    all_align()


if __name__ == "__main__":
    main()
