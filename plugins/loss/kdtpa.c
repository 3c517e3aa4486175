/**
 * SECTION:element-kdtpa
 * @short_description: agreement of teacher and student after tokens that the student would have produced
 *
 * At each response position K tokens c_1 .. c_K were drawn from the student (kdribbon lays them out for one forward pass of each model).
 * loss = 1 / (M K) sum over the M counted positions and their K branches of D (p_T (. | prefix, c_k), p_S (. | prefix, c_k))
 * forward: D = sum q log (q / p), grad = c (p - q) / T; reverse: D = sum p log (p / q), grad = c p (log (p / q) - D) / T; q of the teacher, p of the
 * student at temperature T, c = 1 / (M K). No T^2.
 *
 * ## Fields
 *  - student.branch.logits: float32 [N R K V], differentiable; teacher.branch.logits: float32, float16 or bfloat16 [N R K V]; K = branches
 *  - mask: any number [N R], optional: positions that count
 * ## Units
 * nats; mean over counted positions and branches.
 * ## Errors
 * K that is not `branches` (KD_ERROR_SHAPE). No counted position: 0, with gradient 0.
 * ## Source
 * arXiv:2602.09483 (Align-TI, transition preservation; K 4).
 * ## Example
 * |[ kd launch 'kdh5src location=branches.h5 ! kdtpa branches=4 ! kdh5sink location=out.h5' ]|
 */
#include <kd/kd.h>

typedef struct {
  gdouble temperature;
  gint divergence;
  gint64 branches;
} KdTpaParams;

static const KdParam kd_tpa_params[] = {
  KD_PARAM_DOUBLE (KdTpaParams, temperature, 0.01, 1000.0, 1.0, "Divides both logits"),
  KD_PARAM_ENUM (KdTpaParams, divergence, kd_kl_directions, KD_DIVERGENCE_FORWARD_KL, "Direction"),
  KD_PARAM_INT (KdTpaParams, branches, 1, 1 << 16, 4, "K: tokens drawn at each position"),
  KD_PARAM_END
};

enum { STUDENT,
  TEACHER };
static const KdFieldSpec kd_tpa_fields[] = {
  [STUDENT] = { "student.branch.logits", KD_FLOAT32, "* {branches} V", KD_FIELD_GRAD | KD_FIELD_FRESH },
  [TEACHER] = { "teacher.branch.logits", KD_FLOAT32 | KD_FLOAT16 | KD_BFLOAT16, "* {branches} V" },
  KD_FIELD_END
};

static gboolean
kd_tpa_evaluate (const KdCall *call, KdLossResult *ret, GError **error)
{
  const KdTpaParams *p = call->params;
  const KdRows *rows = kd_call_rows (call);
  gint64 n = rows->n * p->branches;
  g_autofree gdouble *coef = g_new (gdouble, n), *value = g_new (gdouble, n);
  KdDivergence divergence;

  for (gint64 i = 0; i < n; i++)
    coef[i] = rows->coef[i / p->branches] / (gdouble) p->branches;
  divergence = kd_call_divergence (call, p->divergence, STUDENT, TEACHER, coef, value, ret);
  divergence.temperature = p->temperature;
  kd_divergence_rows (&divergence);
  ret->loss = kd_rows_sum (n, coef, value);
  return TRUE;
}

static const KdLossDesc kd_tpa = {
  .name = "kdtpa",
  .title = "Transition preservation loss",
  .description = "Divergence of the next-token distributions after tokens drawn from the student",
  .source = "arXiv:2602.09483 (Align-TI)",
  .formula = "loss = 1 / (M K) sum_r sum_k D (p_T (. | y_<r, c_k), p_S (. | y_<r, c_k))",
  .units = "nats; mean over the counted positions and their branches with reduction=token-mean",
  .fields = kd_tpa_fields,
  .params = kd_tpa_params,
  .params_size = sizeof (KdTpaParams),
  .evaluate = kd_tpa_evaluate,
};

KD_LOSS_PLUGIN (kd_tpa)
