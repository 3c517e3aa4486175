/**
 * SECTION:element-kdpeer
 * @short_description: a teacher that learns together with the student
 *
 * As kdstudent, but its outputs have the teacher's names: losses of online distillation (kdbdkd) read teacher.logits and leave
 * grad.teacher.logits, which this model takes in the same backward pass in which the student takes its own; both step after it, each with its
 * own lr-scale and its own file to save. Its weights are those of a kdstudent or kdteacher of the same architecture.
 *
 * ## Fields
 *  - input: float32 or uint8 [N ...] (uint8 is read as value / 255)
 *  - adds teacher.logits: float32 [N ...]; teacher.features.LAYER for each layer in `features`
 * ## Errors
 * As kdstudent. With trainable=false it takes no gradient, so a loss that leaves one is refused by kdtrain.
 * ## Source
 * Online distillation: arXiv:1706.00384 (mutual learning), arXiv:2212.12965.
 * ## Example
 * |[ kd launch 'kdh5src location=train.h5 epochs=20 ! kdpeer arch="mlp dims=64,256,10" lr-scale=0.2 save=peer.safetensors !
 * kdstudent arch="mlp dims=64,16,10" save=student.safetensors ! kdbdkd ! kdtrain' ]|
 */
#include <kd/kd.h>

static const KdFieldSpec kd_peer_fields[] = {
  { "input", KD_ANY_NUMBER, "N ..." },
  KD_FIELD_END
};

static const KdModelDesc kd_peer = {
  .name = "kdpeer",
  .title = "Peer model",
  .description = "A teacher that learns together with the student: its outputs have the teacher's names and get gradients",
  .source = "arXiv:1706.00384",
  .provides = "teacher.logits teacher.features.*",
  .fields = kd_peer_fields,
  .role = KD_ROLE_PEER,
};

KD_MODEL_PLUGIN (kd_peer)
