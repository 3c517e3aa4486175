"""Losses over rows of classes: methods/pld, sinkd, bd-kd, tgeo-kd, dho, lelp, mixup-kd."""
import numpy as np
import torch

from case import Draw, clean, coefficients, cross, entropy, grads, kl, leaf, lsm, onehot, t, total, write


def pld(name, fields, tau=1.0, weighting="teacher", decay=0.5, weight=1.0, reduction="token-mean"):
    z, q = leaf(clean(fields["student.logits"])), t(clean(fields["teacher.logits"]))
    shape, c = z.shape[:-1], z.shape[-1]
    mask = fields.get("mask", np.ones(shape)) != 0
    value, tail = torch.zeros(shape, dtype=torch.float64), np.zeros(shape)
    for i in np.ndindex(*shape):
        if not mask[i]:
            continue
        y = fields["label"][i]
        order = [y] + [j for j in np.argsort(-q[i].numpy(), kind="stable") if j != y]
        a = {"teacher": torch.softmax(q[i] / tau, 0)[order], "uniform": torch.full((c,), 1 / c, dtype=torch.float64), "ce": t([1.0] + [0.0] * (c - 1)),
             "decay": t(decay ** np.arange(c) / (decay ** np.arange(c)).sum())}[weighting]
        s = z[i][order]
        value[i] = sum(a[k] * (torch.logsumexp(s[k:], 0) - s[k]) for k in range(c))
        tail[i] = float(a[1:].sum())
    coef = coefficients(shape, mask, fields.get("token.weight", fields.get("sample.weight")), reduction, factor=weight)
    loss = total(coef, value)
    props = {"teacher-temperature": tau, "weighting": weighting, "decay": decay, "weight": weight, "per-sample": True, "reduction": reduction}
    write("pld", name, "kdpld", props, fields, {"loss": loss, "loss.per_sample": value, "loss.tail": tail[mask].mean() if mask.any() else 0.0, **grads(loss, student__logits=z)})


def all_pld():
    d = Draw("pld")
    rows = lambda n, c: {"student.logits": d.logits(n, c), "teacher.logits": d.logits(n, c), "label": d.labels(c, n)}
    tokens = {"student.logits": d.logits(2, 4, 6), "teacher.logits": d.logits(2, 4, 6), "label": d.labels(6, 2, 4), "mask": d.mask(2, 4), "token.weight": d.weights(2, 4)}
    tokens["label"][tokens["mask"] == 0] = -100
    tokens["student.logits"][tokens["mask"] == 0] = np.nan
    pld("tokens_masked", tokens, tau=2.0, weight=0.5)
    pld("tokens_seq_mean", tokens, reduction="seq-mean")
    for w in ("ce", "uniform", "decay"):
        pld("weighting_" + w, rows(4, 6), weighting=w, decay=0.7)
    ties = rows(4, 7)
    ties["teacher.logits"] = np.round(ties["teacher.logits"])
    pld("ties_lower_class_first", ties)
    pld("two_classes", rows(3, 2))
    pld("all_masked", {**rows(3, 4), "mask": np.zeros(3, np.uint8)})
    big = rows(4, 5)
    big["teacher.logits"] *= 400
    big["student.logits"][:3] *= 400
    pld("logits_1e3_saturated_teacher", big)
    huge = rows(3, 4)
    huge["teacher.logits"][0] = [1e30, -1e30, 0, 1]
    huge["label"][0] = 2
    pld("teacher_1e30", huge)


def sinkhorn_group(x, y, epsilon, iterations):
    w = (x[:, None] - y[None]).abs().sum(-1)
    la = -w / epsilon
    for _ in range(iterations):
        la = la - torch.logsumexp(la, 1, keepdim=True)
        la = la - torch.logsumexp(la, 0, keepdim=True)
    return w, la.exp()


def sinkhorn(name, fields, temperature=2.0, epsilon=0.1, iterations=20, scale=0.001, weight=0.8, group="batch", gradient="unrolled", max_points=512, plan=False):
    z = leaf(np.where(np.isnan(fields["student.logits"]), 0, fields["student.logits"]))
    x, y = lsm(z, temperature).exp(), lsm(t(clean_nan(fields["teacher.logits"])), temperature).exp()
    shape = z.shape[:-1]
    mask = fields.get("mask", np.ones(shape)) != 0
    index = np.arange(mask.size).reshape(shape)
    groups = [index[mask]] if group == "batch" else [r[m] for r, m in zip(index.reshape(shape[0], -1), mask.reshape(shape[0], -1))]
    x, y = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
    loss, more = 0 * z.nan_to_num(0, 0, 0).sum(), {}
    for g in groups:
        g = g[:max_points]
        if len(g):
            w, p = sinkhorn_group(x[g], y[g], epsilon, iterations)
            loss = loss + weight * scale * ((p.detach() if gradient == "envelope" else p) * w).sum()
            if plan:
                more = {"plan": p}
    props = {"temperature": temperature, "epsilon": epsilon, "iterations": iterations, "scale": scale, "weight": weight, "group": group, "gradient": gradient, "max-points": max_points, "export-plan": plan}
    g = {k: v.nan_to_num(0) for k, v in grads(loss, student__logits=z).items()}
    write("sinkd", name, "kdsinkhorn", props, fields, {"loss": loss, "loss.sinkhorn": loss, **more, **g})


def clean_nan(x):
    return np.where(np.isnan(x), 0, x)


def all_sinkhorn():
    d = Draw("sinkhorn")
    rows = {"student.logits": d.logits(6, 5), "teacher.logits": d.logits(6, 5)}
    tokens = {"student.logits": d.logits(3, 4, 7), "teacher.logits": d.logits(3, 4, 7), "mask": d.mask(3, 4)}
    tokens["mask"][1] = 0
    tokens["student.logits"][tokens["mask"] == 0] = np.nan
    sinkhorn("envelope", rows, gradient="envelope", scale=0.05, plan=True)
    sinkhorn("defaults", rows, plan=True)
    sinkhorn("small_epsilon", rows, epsilon=0.01, scale=1.0, plan=True)
    sinkhorn("large_epsilon_one_iteration", rows, epsilon=5.0, iterations=1, plan=True)
    sinkhorn("tokens_batch", tokens, scale=0.1)
    sinkhorn("tokens_sequence_envelope", tokens, scale=0.1, group="sequence", gradient="envelope")
    sinkhorn("max_points", rows, max_points=4, scale=0.1)
    sinkhorn("max_points_sequence", tokens, max_points=2, scale=0.1, group="sequence")
    sinkhorn("single_sample", {k: v[:1] for k, v in rows.items()}, scale=1.0, plan=True)
    sinkhorn("all_masked", {**rows, "mask": np.zeros(6, np.uint8)})
    minus = {k: v.copy() for k, v in rows.items()}
    minus["student.logits"][0, 1] = minus["student.logits"][2, 3] = minus["teacher.logits"][1, 0] = -np.inf
    sinkhorn("minus_infinity", minus, scale=1.0, plan=True)


def bdkd(name, fields, temperature=4.0, nu=2.0, ce=1.0, kd=1.0, tau=1.0, tce=1.0, tkd=1.0, direction="student-teacher", train=True):
    z, q = leaf(clean(fields["student.logits"])), leaf(clean(fields["teacher.logits"]))
    shape, c = z.shape[:-1], z.shape[-1]
    coef = coefficients(shape, fields.get("mask"))
    ls, lt = lsm(z, temperature), lsm(q, temperature)
    hs, ht = entropy(lsm(z, tau)).detach(), entropy(lsm(q, tau)).detach()
    one = torch.ones_like(hs)
    delta, gamma = torch.where(ht > hs, nu * one, one), torch.where(hs > ht, nu * one, one)
    y = onehot(fields["label"], c) if "label" in fields else torch.zeros_like(z)
    f = temperature**2 * total(coef, delta * kl(lt.detach(), ls))
    r = temperature**2 * total(coef, gamma * kl(ls, lt.detach()))
    l_ce = total(coef, cross(lsm(z), y))
    loss = ce * l_ce + kd * (f + r)
    other = kl(ls.detach(), lt) if direction == "student-teacher" else kl(lt, ls.detach())
    teacher = tce * total(coef, cross(lsm(q), y)) + tkd * temperature**2 * total(coef, other)
    live = coef != 0
    zero = torch.zeros_like(hs)
    out = {"loss": loss, "loss.ce": l_ce, "loss.forward": f, "loss.reverse": r, "loss.teacher": teacher, **grads(loss, student__logits=z)}
    for k, v in {"bd.forward_weight": delta, "bd.reverse_weight": gamma, "bd.entropy.student": hs, "bd.entropy.teacher": ht}.items():
        out[k] = torch.where(live, v, zero)
    if train:
        out.update(grads(teacher, teacher__logits=q))
    else:
        del out["loss.teacher"]
    props = {"temperature": temperature, "nu": nu, "ce-weight": ce, "kd-weight": kd, "entropy-temperature": tau, "teacher-ce-weight": tce, "teacher-kd-weight": tkd, "teacher-direction": direction, "train-teacher": train}
    write("bd-kd", name, "kdbdkd", props, fields, out, rtol=1e-4)


def all_bdkd():
    d = Draw("bdkd")
    rows = {"student.logits": d.logits(5, 4), "teacher.logits": d.logits(5, 4), "label": d.labels(4, 5)}
    tokens = {"student.logits": d.logits(2, 4, 6), "teacher.logits": d.logits(2, 4, 6), "label": d.labels(6, 2, 4), "mask": d.mask(2, 4)}
    tokens["student.logits"][tokens["mask"] == 0] = np.nan
    bdkd("teacher_direction", rows, direction="teacher-student", temperature=2.0, nu=1.5, tkd=0.3, tce=2.0, ce=0.5, kd=0.7)
    bdkd("offline", rows, train=False)
    bdkd("tokens", tokens, tau=2.0, nu=3.0)
    bdkd("nu_1", rows, nu=1.0)
    equal = {k: v.copy() for k, v in rows.items()}
    equal["teacher.logits"][:3] = equal["student.logits"][:3]
    bdkd("equal_rows", equal, ce=0.0, tce=0.0)
    bdkd("no_labels", {k: v for k, v in rows.items() if k != "label"}, ce=0.0, tce=0.0)
    bdkd("all_masked", {**rows, "mask": np.zeros(5, np.uint8)})


def dho(name, fields, temperature=2.0, ce=0.5, kd=0.5, reduction="separate"):
    a, k, q = leaf(fields["student.ce.logits"]), leaf(fields["student.kd.logits"]), t(fields["teacher.logits"])
    y, n, c = fields["label"], len(fields["label"]), a.shape[-1]
    known = torch.as_tensor(y >= 0)
    mean = lambda v, m: v[m].mean() if m.any() else 0 * v.sum()
    l_ce = mean(cross(lsm(a), onehot(y, c)), known)
    d = temperature**2 * kl(lsm(q, temperature), lsm(k, temperature))
    if reduction == "separate":
        parts = [mean(d, known), mean(d, ~known)]
    else:
        parts = [d[known].sum() / n, d[~known].sum() / n]
    loss = ce * l_ce + kd * sum(parts)
    out = {"loss": loss, "loss.ce": l_ce, **grads(loss, student__ce__logits=a, student__kd__logits=k)}
    if reduction == "separate":
        out.update({"loss.kd.labeled": parts[0], "loss.kd.unlabeled": parts[1]})
    write("dho", name, "kddho", {"ce-weight": ce, "kd-weight": kd, "temperature": temperature, "kd-reduction": reduction}, fields, out)


def combine(name, a, k, y, alpha=0.5, beta=0.5, step=None, grid=None):
    pa, la, lk = torch.softmax(t(a), -1), t(a), t(k)
    mix = lambda al, be: al * pa + (1 - al) * torch.softmax(lk / be, -1)
    if grid is None:
        p = mix(alpha, beta)
        write("dho", name, "kddhocombine", {"mode": "fixed", "alpha": alpha, "beta": beta}, {"student.ce.logits": a, "student.kd.logits": k}, {"student.probs": p, "prediction": p.argmax(-1)})
        return
    best, table = (0, 0.0, 1.0), []
    for be in grid:
        table.append([])
        for i in range(int(round(1 / step)) + 1):
            n = int((mix(step * i, be).argmax(-1).numpy() == y).sum())
            table[-1].append(n)
            if n > best[0]:
                best = (n, step * i, be)
    write("dho", name, "kddhocombine", {"mode": "search", "alpha-step": step, "beta-grid": grid}, {"student.ce.logits": a, "student.kd.logits": k, "label": y},
          {"best.alpha": best[1], "best.beta": best[2], "best.correct": np.int64(best[0]), "correct_table": np.array(table, np.int64)})


def all_dho():
    d = Draw("dho")
    rows = {"student.ce.logits": d.logits(6, 5), "student.kd.logits": d.logits(6, 5), "teacher.logits": d.logits(6, 5), "label": np.array([1, -1, 4, -1, -1, 0])}
    for r in ("separate", "pooled"):
        dho("mixed_" + r, rows, reduction=r, temperature=3.0, ce=0.7, kd=0.2)
        dho("labeled_only_" + r, {**rows, "label": np.array([1, 2, 4, 3, 3, 0])}, reduction=r)
        dho("unlabeled_only_" + r, {**rows, "label": np.full(6, -1)}, reduction=r)
    combine("combine_fixed", rows["student.ce.logits"], rows["student.kd.logits"], None, 0.3, 1.5)
    combine("combine_search", d.logits(30, 4), d.logits(30, 4), d.labels(4, 30), step=0.1, grid=[0.25, 1.0, 3.0])
    wrong = d.logits(8, 3)
    combine("combine_none_correct", wrong, wrong, wrong.argmin(-1).astype(np.int64), step=0.25, grid=[1.0, 2.0])


def main():
    all_pld()
    all_sinkhorn()
    all_bdkd()
    all_dho()


if __name__ == "__main__":
    main()
