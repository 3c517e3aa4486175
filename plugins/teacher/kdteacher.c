/**
 * SECTION:element-kdteacher
 * @short_description: the teacher's outputs for each batch
 *
 * Runs a frozen model on `input` and adds what it says. Never trained, never asked for gradients.
 *
 * ## Fields
 *  - input: float32 or uint8 [N ...] (uint8 is read as value / 255)
 *  - adds teacher.logits: float32 [N ...]; teacher.features.LAYER for each layer in `features`
 * ## Errors
 * An unreadable model file, an input that does not fit the architecture, a layer that is not there.
 * ## Example
 * |[ gst-launch-1.0 kdh5src location=train.h5 ! kdteacher arch='mlp dims=64,256,10' weights=teacher.safetensors ! kdcachesink location=teacher.h5 ]|
 */
#include <kd/kd.h>

static const KdFieldSpec kd_teacher_fields[] = {
  { "input", KD_ANY_NUMBER, "N ..." },
  KD_FIELD_END
};

static const KdModelDesc kd_teacher = {
  .name = "kdteacher",
  .title = "Teacher model",
  .description = "Adds the outputs of a frozen teacher to each batch",
  .source = "arXiv:1503.02531 section 2",
  .provides = "teacher.logits teacher.features.*",
  .fields = kd_teacher_fields,
  .role = KD_ROLE_TEACHER,
};

KD_MODEL_PLUGIN (kd_teacher)
