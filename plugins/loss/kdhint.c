/**
 * SECTION:element-kdhint
 * @short_description: squared distance between features of student and teacher
 *
 * loss = weight x mean over the elements of the counted rows of (a - t)^2
 * grad = weight x 2 (a - t) / elements
 * a is the student's feature brought to the teacher's shape by a trainable kdmodule before this element.
 *
 * ## Fields
 *  - student.features.{student-field}: float32 [* D], differentiable
 *  - teacher.features.{teacher-field}: float32, float16 or bfloat16 [* D]
 *  - mask, token.weight, sample.weight: optional; they cover the first axes of the rows
 * ## Units
 * Feature units squared; mean over rows and D. The default weight 100 is mdistiller's for CIFAR-100.
 * ## Errors
 * None of its own; the base refuses disagreeing shapes and values that are not finite.
 * ## Source
 * arXiv:1412.6550 (FitNets), equation 3, with the mean of megvii-research/mdistiller FitNet.py in the place of the half sum.
 * ## Example
 * |[ kd launch 'kdh5src location=batch.h5 ! kdhint student-field=block2 teacher-field=block2 ! kdh5sink location=out.h5' ]|
 */
#include <kd/kd.h>

typedef struct {
  gchar *student_field, *teacher_field;
} KdHintParams;

static const KdParam kd_hint_params[] = {
  KD_PARAM_STRING (KdHintParams, student_field, "aligned", "Name of the student's feature, after student.features."),
  KD_PARAM_STRING (KdHintParams, teacher_field, "hint", "Name of the teacher's feature, after teacher.features."),
  KD_PARAM_END
};

enum { STUDENT,
  TEACHER };
static const KdFieldSpec kd_hint_fields[] = {
  [STUDENT] = { "student.features.{student_field}", KD_FLOAT32, "* D", KD_FIELD_GRAD },
  [TEACHER] = { "teacher.features.{teacher_field}", KD_FLOAT32 | KD_FLOAT16 | KD_BFLOAT16, "* D", KD_FIELD_FINITE },
  KD_FIELD_END
};

static gboolean
kd_hint_evaluate (const KdCall *call, KdLossResult *ret, GError **error)
{
  const KdRows *rows = kd_call_rows (call);
  gint64 size = kd_call_size (call, 'D');
  gdouble scale = 1.0 / (gdouble) MAX (size, 1);
  g_autofree gdouble *value = g_new (gdouble, rows->n);

  kd_squared_rows (&(KdSquared) {
      .n = rows->n,
      .size = size,
      .student = call->in[STUDENT]->data,
      .teacher = call->in[TEACHER]->data,
      .teacher_type = (KdReal) call->in[TEACHER]->dtype,
      .coef = rows->coef,
      .scale = scale,
      .grad = ret->grad[STUDENT],
      .value = value,
  });
  ret->loss = scale * kd_rows_sum (rows->n, rows->coef, value);
  return TRUE;
}

static const KdLossDesc kd_hint = {
  .name = "kdhint",
  .title = "Hint loss",
  .description = "Squared distance between a feature of the student, brought to the teacher's shape, and the teacher's",
  .source = "arXiv:1412.6550 equation 3",
  .formula = "loss = weight mean (student feature - teacher feature)^2",
  .units = "units of the features squared; mean over the counted rows and their elements",
  .fields = kd_hint_fields,
  .params = kd_hint_params,
  .params_size = sizeof (KdHintParams),
  .default_weight = 100.0,
  .evaluate = kd_hint_evaluate,
};

KD_LOSS_PLUGIN (kd_hint)
