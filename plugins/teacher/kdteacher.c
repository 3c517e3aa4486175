/**
 * SECTION:element-kdteacher
 * @short_description: the teacher's outputs for each batch
 *
 * Runs a frozen model on `input` and adds what it says. Never trained, never asked for gradients.
 *
 * ## Fields
 *  - input: float32 or uint8 [N ...] (uint8 is read as value / 255)
 *  - adds teacher.logits: float32 [N ...]; teacher.features.LAYER for each layer in `features`
 *  - with only-missing: reads cache.hit: bool [N], and puts rows of teacher.logits ... where it is false, in the type that they have
 * ## Errors
 * With only-missing: no cache.hit, a cache without one of the outputs, a cache of another teacher.
 * An unreadable model file, an input that does not fit the architecture, a layer that is not there.
 * ## Example
 * |[ kd launch 'kdh5src location=train.h5 ! kdcache location=part.h5 on-miss=pass ! kdteacher arch="mlp dims=64,256,10" weights=teacher.safetensors only-missing=true ! kdcachesink location=all.h5' ]|
 * |[ gst-launch-1.0 kdh5src location=train.h5 ! kdteacher arch='mlp dims=64,256,10' weights=teacher.safetensors ! kdcachesink location=teacher.h5 ]|
 */
#include <kd/kd.h>

static const KdFieldSpec kd_teacher_fields[] = {
  { "input", KD_ANY_NUMBER, "N ..." },
  KD_FIELD_END
};

typedef struct {
  gboolean only_missing;
} KdTeacherParams;

static const KdParam kd_teacher_params[] = {
  KD_PARAM_BOOL (KdTeacherParams, only_missing, FALSE, "Compute only the rows that a kdcache on-miss=pass before it did not have"),
  KD_PARAM_END
};

static const KdModelDesc kd_teacher = {
  .name = "kdteacher",
  .title = "Teacher model",
  .description = "Adds the outputs of a frozen teacher to each batch",
  .source = "arXiv:1503.02531 section 2",
  .provides = "teacher.logits teacher.features.*",
  .fields = kd_teacher_fields,
  .params = kd_teacher_params,
  .params_size = sizeof (KdTeacherParams),
  .role = KD_ROLE_TEACHER,
};

KD_MODEL_PLUGIN (kd_teacher)
