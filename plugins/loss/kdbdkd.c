/**
 * SECTION:element-kdbdkd
 * @short_description: balanced divergences between a student and a teacher that learn together
 *
 * p = softmax (student / T), q = softmax (teacher / T), H the entropies of both at entropy-temperature, per row:
 * forward = T^2 mean_n d_n KL (q || p), reverse = T^2 mean_n g_n KL (p || q)
 * d = nu where H_teacher > H_student, else 1; g = nu where H_student > H_teacher, else 1; both constant, and 1 where the entropies are equal.
 * loss = ce-weight CE (student, label) + kd-weight (forward-weight forward + reverse-weight reverse), whose gradient the student gets
 * loss.teacher = teacher-ce-weight CE (teacher, label) + teacher-kd-weight T^2 mean_n D, whose gradient the teacher gets; it is no part of loss.
 * D = KL (p || q) with teacher-direction=student-teacher, KL (q || p) with teacher-student. Either takes the other's logits as constant.
 *
 * The teacher is a model that learns: kdpeer. train-teacher=false is for one that does not: no grad.teacher.logits, loss.teacher stays 0.
 * gate=swapped turns the gate round, forward-weight=0 and reverse-weight=0 leave a direction out: what a comparison needs.
 *
 * ## Fields
 *  - student.logits: float32 [* C], differentiable
 *  - teacher.logits: float32 [* C], differentiable with train-teacher, else float16 or bfloat16 too; C from 2
 *  - label: int64 [*], optional when no cross-entropy has a weight
 *  - mask, token.weight, sample.weight: optional, see the base
 *  - adds loss.ce, loss.forward, loss.reverse (before their weights), loss.teacher;
 *    bd.forward_weight, bd.reverse_weight (d, g), bd.entropy.student, bd.entropy.teacher: float32 [*], 0 on rows that do not count;
 *    metric.bd.forward-share, metric.bd.reverse-share: the parts of the counted rows whose d, whose g is nu
 * ## Units
 * nats; token-mean over the counted rows by default.
 * ## Errors
 * One class; no label with a weight on a cross-entropy; a half-precision teacher with train-teacher. A teacher that does not learn with
 * train-teacher=true: kdtrain finds that nobody takes grad.teacher.logits.
 * ## Source
 * arXiv:2212.12965. The gate as in a later token-level code (ghwang-s/abkd), nu 2 as it notes of the paper; T^2, entropies at temperature 1 and the teacher's divergence
 * are choices made here.
 * ## Example
 * |[ kd launch 'kdh5src location=train.h5 epochs=20 ! kdpeer arch="mlp dims=64,256,10" lr-scale=0.2 ! kdstudent arch="mlp dims=64,16,10" ! kdbdkd ! kdtrain' ]|
 */
#include <kd/kd.h>

#include <math.h>

typedef struct {
  gdouble temperature, nu, ce_weight, kd_weight, forward_weight, reverse_weight, entropy_temperature;
  gdouble teacher_ce_weight, teacher_kd_weight;
  gint gate, teacher_direction;
  gboolean train_teacher;
} KdBdkdParams;

enum { GATE_ENTROPY,
  GATE_SWAPPED };
static const KdEnumValue gates[] = {
  { GATE_ENTROPY, "entropy", "nu on the forward KL where the teacher is less sure, on the reverse KL where the student is" },
  { GATE_SWAPPED, "swapped", "The other way round, to compare with" },
  { 0, NULL, NULL }
};
static const KdEnumValue directions[] = {
  { KD_DIVERGENCE_FORWARD_KL, "student-teacher", "KL (student || teacher)" }, /* the teacher is what moves here: the kernel's student */
  { KD_DIVERGENCE_REVERSE_KL, "teacher-student", "KL (teacher || student)" },
  { 0, NULL, NULL }
};

static const KdParam kd_bdkd_params[] = {
  KD_PARAM_DOUBLE (KdBdkdParams, temperature, 0.01, 100.0, 4.0, "Divides both logits in the divergences, which are multiplied by its square"),
  KD_PARAM_DOUBLE (KdBdkdParams, nu, 1.0, 100.0, 2.0, "Weight of the direction that the gate chooses; 1: no gate"),
  KD_PARAM_DOUBLE (KdBdkdParams, ce_weight, 0.0, 1e6, 1.0, "Factor of the student's cross-entropy with the labels"),
  KD_PARAM_DOUBLE (KdBdkdParams, kd_weight, 0.0, 1e6, 1.0, "Factor of both divergences in the student's loss"),
  KD_PARAM_DOUBLE (KdBdkdParams, forward_weight, 0.0, 1e6, 1.0, "Factor of the forward KL, KL (teacher || student)"),
  KD_PARAM_DOUBLE (KdBdkdParams, reverse_weight, 0.0, 1e6, 1.0, "Factor of the reverse KL, KL (student || teacher)"),
  KD_PARAM_DOUBLE (KdBdkdParams, entropy_temperature, 0.01, 100.0, 1.0, "Divides both logits before the entropies that the gate compares"),
  KD_PARAM_ENUM (KdBdkdParams, gate, gates, GATE_ENTROPY, "Which direction gets nu"),
  KD_PARAM_DOUBLE (KdBdkdParams, teacher_ce_weight, 0.0, 1e6, 1.0, "Factor of the teacher's cross-entropy with the labels"),
  KD_PARAM_DOUBLE (KdBdkdParams, teacher_kd_weight, 0.0, 1e6, 1.0, "Factor of the divergence in the teacher's loss"),
  KD_PARAM_ENUM (KdBdkdParams, teacher_direction, directions, KD_DIVERGENCE_FORWARD_KL, "The divergence in the teacher's loss"),
  KD_PARAM_BOOL (KdBdkdParams, train_teacher, TRUE, "Whether the teacher learns too: its logits get a gradient of their own"),
  KD_PARAM_END
};

enum { STUDENT,
  TEACHER,
  LABEL };
static const KdFieldSpec kd_bdkd_fields[] = {
  [STUDENT] = { "student.logits", KD_FLOAT32, "* C", KD_FIELD_GRAD },
  [TEACHER] = { "teacher.logits", KD_FLOAT32 | KD_FLOAT16 | KD_BFLOAT16, "* C", KD_FIELD_GRAD, .when = "train_teacher", .grad_of = "teacher" },
  [LABEL] = { "label", KD_INT64, "*", KD_FIELD_OPTIONAL | KD_FIELD_LABEL },
  KD_FIELD_END
};

enum { FORWARD_WEIGHT,
  REVERSE_WEIGHT,
  STUDENT_ENTROPY,
  TEACHER_ENTROPY,
  FORWARD_SHARE,
  REVERSE_SHARE };
static const KdFieldSpec kd_bdkd_outputs[] = {
  [FORWARD_WEIGHT] = { "bd.forward_weight", KD_FLOAT32, "*" },
  [REVERSE_WEIGHT] = { "bd.reverse_weight", KD_FLOAT32, "*" },
  [STUDENT_ENTROPY] = { "bd.entropy.student", KD_FLOAT32, "*" },
  [TEACHER_ENTROPY] = { "bd.entropy.teacher", KD_FLOAT32, "*" },
  [FORWARD_SHARE] = { "metric.bd.forward-share", KD_FLOAT64, "" },
  [REVERSE_SHARE] = { "metric.bd.reverse-share", KD_FLOAT64, "" },
  KD_FIELD_END
};

enum { CE,
  FORWARD,
  REVERSE,
  OF_TEACHER };
static const gchar *const kd_bdkd_terms[] = { [CE] = "ce", [FORWARD] = "forward", [REVERSE] = "reverse", [OF_TEACHER] = "teacher", NULL };

static gboolean
check_fields (const KdCall *call, GError **error)
{
  const KdBdkdParams *p = call->params;
  KdDtype dtype = call->in[TEACHER]->dtype;

  if (kd_call_size (call, 'C') < 2) {
    g_set_error (error, KD_ERROR, KD_ERROR_SHAPE, "Too few classes: element=kdbdkd, field=student.logits, classes=%" G_GINT64_FORMAT ", wanted=2 or more",
        kd_call_size (call, 'C'));
    return FALSE;
  }
  if (p->train_teacher && dtype != KD_FLOAT32) {
    g_set_error (error, KD_ERROR, KD_ERROR_DTYPE, "Type not accepted: element=kdbdkd, field=teacher.logits, dtype=%s, wanted=float32 with train-teacher=true; "
                                                  "put kdpeer before it or set train-teacher=false",
        kd_dtype_name (dtype));
    return FALSE;
  }
  if (!call->in[LABEL] && (p->ce_weight > 0 || (p->train_teacher && p->teacher_ce_weight > 0))) {
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Field missing: element=kdbdkd, field=label, ce-weight=%g, teacher-ce-weight=%g; put a source with labels "
                                                  "before it or set both to 0",
        p->ce_weight, p->teacher_ce_weight);
    return FALSE;
  }
  return TRUE;
}

/* The mean of the cross-entropies, before @weight; 0 without labels. */
static gdouble
add_labels (const KdCall *call, const gfloat *logits, gdouble weight, gfloat *grad, gdouble *value)
{
  const KdRows *rows = kd_call_rows (call);

  if (!call->in[LABEL])
    return 0;
  kd_xent_rows (&(KdXent) {
      .n = rows->n,
      .size = kd_call_size (call, 'C'),
      .logits = logits,
      .label = call->in[LABEL]->data,
      .coef = rows->coef,
      .scale = weight,
      .grad = weight > 0 ? grad : NULL,
      .value = value,
  });
  return kd_rows_sum (rows->n, rows->coef, value);
}

/* T^2 times the mean of the divergences, before @weight. @moving is the one that the gradient is of. */
static gdouble
add_divergence (const KdCall *call, gint kind, const gdouble *coef, const KdTensor *moving, const KdTensor *fixed, gdouble weight, gfloat *grad, gdouble *value)
{
  const KdBdkdParams *p = call->params;
  gint64 n = kd_call_rows (call)->n;
  gdouble t2 = p->temperature * p->temperature;

  kd_divergence_rows (&(KdDivergence) {
      .kind = (KdDivergenceKind) kind,
      .n = n,
      .size = kd_call_size (call, 'C'),
      .student = moving->data,
      .teacher = fixed->data,
      .teacher_type = (KdReal) fixed->dtype,
      .coef = coef,
      .temperature = p->temperature,
      .scale = weight * t2,
      .reject_infinite = TRUE,
      .grad = weight > 0 ? grad : NULL,
      .value = value,
  });
  return t2 * kd_rows_sum (n, coef, value);
}

static void
find_entropies (const KdCall *call, const KdTensor *logits, gdouble *ret_entropy)
{
  const KdBdkdParams *p = call->params;
  const KdRows *rows = kd_call_rows (call);

  kd_softmax_rows (&(KdSoftmax) {
      .n = rows->n,
      .size = kd_call_size (call, 'C'),
      .logits = logits->data,
      .type = (KdReal) logits->dtype,
      .coef = rows->coef,
      .temperature = p->entropy_temperature,
      .entropy = ret_entropy,
  });
}

/* Whether a row's logits are the same in both: then its divergences and their gradients are exactly 0, not what rounding leaves of it. */
static gboolean
rows_agree (const KdCall *call, gint64 r)
{
  gint64 size = kd_call_size (call, 'C');
  const gfloat *student = (const gfloat *) call->in[STUDENT]->data + r * size, *teacher = (const gfloat *) call->in[TEACHER]->data + r * size;
  gint64 same = 0;

  if (call->in[TEACHER]->dtype != KD_FLOAT32)
    return FALSE;
  while (same < size && student[same] == teacher[same] && isfinite (student[same]))
    same++;
  return same == size;
}

/* Each row's coefficients in the two directions and for the teacher's divergence, and what is told about them. */
static void
open_gate (const KdCall *call, KdLossResult *ret, gdouble *ret_forward, gdouble *ret_reverse, gdouble *ret_teacher)
{
  const KdBdkdParams *p = call->params;
  const KdRows *rows = kd_call_rows (call);
  g_autofree gdouble *student = g_new0 (gdouble, rows->n), *teacher = g_new0 (gdouble, rows->n);
  gint64 n_forward = 0, n_reverse = 0;

  find_entropies (call, call->in[STUDENT], student);
  find_entropies (call, call->in[TEACHER], teacher);
  for (gint64 r = 0; r < rows->n; r++) {
    gboolean forward = p->gate == GATE_SWAPPED ? student[r] > teacher[r] : teacher[r] > student[r];
    gboolean reverse = p->gate == GATE_SWAPPED ? teacher[r] > student[r] : student[r] > teacher[r];
    gdouble d = forward ? p->nu : 1, g = reverse ? p->nu : 1;
    ret_teacher[r] = rows->coef[r] == 0 || rows_agree (call, r) ? 0 : rows->coef[r];
    ret_forward[r] = d * ret_teacher[r];
    ret_reverse[r] = g * ret_teacher[r];
    if (rows->coef[r] == 0)
      continue;
    n_forward += forward;
    n_reverse += reverse;
    ((gfloat *) ret->out[FORWARD_WEIGHT]->data)[r] = (gfloat) d;
    ((gfloat *) ret->out[REVERSE_WEIGHT]->data)[r] = (gfloat) g;
    ((gfloat *) ret->out[STUDENT_ENTROPY]->data)[r] = (gfloat) student[r];
    ((gfloat *) ret->out[TEACHER_ENTROPY]->data)[r] = (gfloat) teacher[r];
  }
  *(gdouble *) ret->out[FORWARD_SHARE]->data = rows->n_counted ? (gdouble) n_forward / (gdouble) rows->n_counted : 0;
  *(gdouble *) ret->out[REVERSE_SHARE]->data = rows->n_counted ? (gdouble) n_reverse / (gdouble) rows->n_counted : 0;
}

static gboolean
kd_bdkd_evaluate (const KdCall *call, KdLossResult *ret, GError **error)
{
  const KdBdkdParams *p = call->params;
  const KdRows *rows = kd_call_rows (call);
  const KdTensor *student = call->in[STUDENT], *teacher = call->in[TEACHER];
  g_autofree gdouble *value = g_new (gdouble, rows->n), *forward = g_new (gdouble, rows->n), *reverse = g_new (gdouble, rows->n),
                     *mutual = g_new (gdouble, rows->n);

  if (!check_fields (call, error))
    return FALSE;
  open_gate (call, ret, forward, reverse, mutual);
  ret->term[CE] = add_labels (call, student->data, p->ce_weight, ret->grad[STUDENT], value);
  ret->term[FORWARD] = add_divergence (call, KD_DIVERGENCE_FORWARD_KL, forward, student, teacher, p->kd_weight * p->forward_weight, ret->grad[STUDENT], value);
  ret->term[REVERSE] = add_divergence (call, KD_DIVERGENCE_REVERSE_KL, reverse, student, teacher, p->kd_weight * p->reverse_weight, ret->grad[STUDENT], value);
  ret->loss = p->ce_weight * ret->term[CE] + p->kd_weight * (p->forward_weight * ret->term[FORWARD] + p->reverse_weight * ret->term[REVERSE]);
  if (!p->train_teacher)
    return TRUE;
  ret->term[OF_TEACHER] = p->teacher_ce_weight * add_labels (call, teacher->data, p->teacher_ce_weight, ret->grad[TEACHER], value);
  ret->term[OF_TEACHER] += p->teacher_kd_weight * add_divergence (call, p->teacher_direction, mutual, teacher, student, p->teacher_kd_weight, ret->grad[TEACHER], value);
  return TRUE;
}

static const KdLossDesc kd_bdkd = {
  .name = "kdbdkd",
  .title = "Balanced divergence loss",
  .description = "Student and teacher learn together; both KL directions, weighted by who is less sure",
  .source = "arXiv:2212.12965",
  .formula = "loss = ce-weight CE (student) + kd-weight T^2 mean_n (forward-weight d KL (q || p) + reverse-weight g KL (p || q)), "
             "d = nu where H_teacher > H_student, g = nu where H_student > H_teacher, else 1; "
             "loss.teacher = teacher-ce-weight CE (teacher) + teacher-kd-weight T^2 mean_n KL (p || q) or KL (q || p)",
  .units = "nats; mean over the counted rows with reduction=token-mean",
  .fields = kd_bdkd_fields,
  .params = kd_bdkd_params,
  .params_size = sizeof (KdBdkdParams),
  .outputs = kd_bdkd_outputs,
  .terms = kd_bdkd_terms,
  .evaluate = kd_bdkd_evaluate,
};

KD_LOSS_PLUGIN (kd_bdkd)
