/**
 * SECTION:element-kdstudent
 * @short_description: the model that learns
 *
 * Runs the student on `input` and keeps the tape on the batch; kdtrain sends the gradient of its outputs back to it.
 * Without a kdtrain at the end of the graph it runs in evaluation mode and keeps nothing.
 *
 * ## Fields
 *  - input: float32 or uint8 [N ...] (uint8 is read as value / 255)
 *  - adds student.logits: float32 [N ...]; student.features.LAYER for each layer in `features`
 * ## Errors
 * An unreadable weights file, an input that does not fit the architecture, a layer that is not there, a queue between it and kdtrain.
 * ## Example
 * |[ kd launch 'kdh5src location=train.h5 shuffle=true epochs=10 ! kdstudent arch="mlp dims=64,16,10" save=student.safetensors ! kdce ! kdtrain' ]|
 */
#include <kd/kd.h>

static const KdFieldSpec kd_student_fields[] = {
  { "input", KD_ANY_NUMBER, "N ..." },
  KD_FIELD_END
};

static const KdModelDesc kd_student = {
  .name = "kdstudent",
  .title = "Student model",
  .description = "Adds the outputs of the student to each batch and learns from their gradients",
  .source = "arXiv:1503.02531 section 2",
  .provides = "student.logits student.features.*",
  .fields = kd_student_fields,
  .role = KD_ROLE_STUDENT,
};

KD_MODEL_PLUGIN (kd_student)
