/* KdModel: an architecture or a TorchScript file, its parameters, and the shapes that come out of it.
 * The parameters are found by running the architecture once on a batch of zeros: it then says for itself what it needs. */
#include "kd-arch-private.h"
#include "kd-graph-private.h"
#include "kd-ops.h"
#include "../batch/kd-layout.h"

#include <string.h>

#define BUILD_SAMPLES 2

typedef struct {
  gchar *name; /* NULL for the logits */
  guint rank;
  gint64 dims[KD_MAX_RANK];
} Shape;

struct _KdModel {
  gatomicrefcount ref_count;
  KdEngine *engine;
  KdArchSpec spec;    /* or */
  KdScript *script;   /* with */
  gchar *script_hash; /* SHA-256 of the file: code and constants are not among the parameters */
  KdParamSet *params;
  guint rank;
  gint64 dims[KD_MAX_RANK];
  GArray *shapes; /* Shape: the logits, then the taps */
};

static void
shape_clear (gpointer shape)
{
  g_free (((Shape *) shape)->name);
}

KdModel *
kd_model_ref (KdModel *model)
{
  g_atomic_ref_count_inc (&model->ref_count);
  return model;
}

void
kd_model_unref (KdModel *model)
{
  if (!g_atomic_ref_count_dec (&model->ref_count))
    return;
  if (model->script)
    KD_ENGINE_GET_CLASS (model->engine)->script_free (model->script);
  _kd_arch_spec_clear (&model->spec);
  g_free (model->script_hash);
  g_array_unref (model->shapes);
  kd_param_set_unref (model->params);
  g_free (model);
}

static gchar *
dims_string (guint rank, const gint64 *dims)
{
  KdTensor shape = { .rank = rank };

  memcpy (shape.dims, dims, rank * sizeof *dims);
  return kd_tensor_shape_string (&shape);
}

/* Images come as bytes and are used as 0..1, as torchvision's ToTensor does; ids stay whole numbers; the rest becomes float32. */
static KdTensor *
convert_input (KdTensor *input, GError **error)
{
  if (input->dtype == KD_INT64 || input->dtype == KD_INT32)
    return kd_tensor_ref (input);
  if (input->dtype != KD_UINT8)
    return kd_tensor_cast (input, KD_FLOAT32, error);
  return kd_tensor_unit_float (input);
}

static KdVar *
run_script (KdModel *model, KdForward *forward, KdVar *input)
{
  KdVar *outputs[KD_SCRIPT_MAX_OUTPUTS] = { NULL };
  guint n = 0;

  if (!input || !forward->klass->script_forward (model->script, forward->graph, forward->training, input, outputs, &n, &forward->error))
    return NULL;
  for (guint i = 1; i < n; i++) {
    g_autofree gchar *name = g_strdup_printf ("output%u", i);
    kd_tap (forward, name, kd_cast_float (forward, outputs[i]));
  }
  return kd_cast_float (forward, outputs[0]);
}

static KdForward *
run (KdModel *model, KdTensor *input, gboolean grad, gboolean input_grad, gboolean training, const KdRandom *random, KdVar **ret_input,
    KdVar **ret_output, GError **error)
{
  g_autoptr (KdTensor) converted = convert_input (input, error);
  g_autoptr (KdForward) forward = NULL;

  if (!converted)
    return NULL;
  forward = kd_forward_new (model->engine, model->params, grad, training, random);
  *ret_input = kd_forward_input (forward, converted, input_grad);
  if (!*ret_input)
    *ret_output = NULL;
  else if (model->script)
    *ret_output = run_script (model, forward, *ret_input);
  else
    *ret_output = model->spec.desc->forward (model->spec.params, forward, *ret_input);
  if (!*ret_output)
    kd_forward_fail (forward, KD_ERROR_ENGINE, "The architecture gave no output and no reason");
  if (forward->error) {
    g_propagate_error (error, g_error_copy (forward->error));
    return NULL;
  }
  return g_steal_pointer (&forward);
}

static gboolean
note_shape (KdModel *model, KdForward *forward, const gchar *name, KdVar *var, GError **error)
{
  Shape shape = { .name = g_strdup (name) };

  shape.rank = kd_var_shape (forward, var, shape.dims);
  if (shape.rank == 0 || shape.dims[0] != BUILD_SAMPLES) {
    g_autofree gchar *dims = dims_string (shape.rank, shape.dims);
    g_set_error (error, KD_ERROR, KD_ERROR_SHAPE, "Output does not keep the samples: output=%s, samples in=%d, shape=%s; its first axis must be "
                                                  "the samples",
        name ? name : "logits", BUILD_SAMPLES, dims);
    g_free (shape.name);
    return FALSE;
  }
  shape.dims[0] = KD_DIM_ANY;
  g_array_append_val (model->shapes, shape);
  return TRUE;
}

static gboolean
build (KdModel *model, KdDtype dtype, GError **error)
{
  g_autoptr (KdTensor) zeros = NULL;
  g_autoptr (KdForward) forward = NULL;
  KdVar *input, *output;
  gsize bytes;

  model->dims[0] = BUILD_SAMPLES;
  if (model->rank == 0 || !(dtype & KD_ANY_NUMBER) || !kd_shape_bytes (dtype, model->rank, model->dims, &bytes)) {
    g_set_error (error, KD_ERROR, KD_ERROR_SHAPE, "Input not accepted: dtype=%s, rank=%u; a model needs numbers in an array whose axes, but for "
                                                  "the samples', have a fixed size",
        kd_dtype_name (dtype), model->rank);
    return FALSE;
  }
  zeros = kd_tensor_new_zero (dtype, model->rank, model->dims);
  forward = run (model, zeros, FALSE, FALSE, FALSE, NULL, &input, &output, error);
  if (!forward || !note_shape (model, forward, NULL, output, error))
    return FALSE;
  for (guint i = 0; i < forward->taps->len; i++)
    if (!note_shape (model, forward, g_ptr_array_index (forward->tap_names, i), g_ptr_array_index (forward->taps, i), error))
      return FALSE;
  kd_param_set_freeze (model->params);
  return TRUE;
}

static gchar *
hash_file (const gchar *path, GError **error)
{
  g_autoptr (GError) reason = NULL;
  g_autoptr (GMappedFile) file = g_mapped_file_new (path, FALSE, &reason);

  if (!file) {
    g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot read model: path=\"%s\", reason=%s", path, reason->message);
    return NULL;
  }
  return g_compute_checksum_for_data (G_CHECKSUM_SHA256, (const guchar *) g_mapped_file_get_contents (file), g_mapped_file_get_length (file));
}

static gboolean
open_script (KdModel *model, const gchar *path, GError **error)
{
  KdEngineClass *klass = KD_ENGINE_GET_CLASS (model->engine);

  if (!klass->script_load) {
    g_set_error (error, KD_ERROR, KD_ERROR_UNSUPPORTED, "Model files not supported: engine=%s, path=\"%s\"; use an architecture (arch=)", klass->name,
        path);
    return FALSE;
  }
  model->script = klass->script_load (model->engine, path, error);
  if (!model->script || !(model->script_hash = hash_file (path, error)))
    return FALSE;
  if (!klass->script_bind (model->script, model->params, error)) {
    g_prefix_error (error, "Model cannot be used: path=\"%s\": ", path);
    return FALSE;
  }
  return TRUE;
}

/* Same shapes do not make the same model: the activation may differ. Files say in kd.arch what they were made for. */
static gboolean
check_weights_arch (KdModel *model, const gchar *path, GError **error)
{
  g_autoptr (GHashTable) metadata = kd_safetensors_metadata (path, error);
  g_autofree gchar *ours = NULL, *theirs = NULL;
  g_auto (KdArchSpec) spec = { NULL };
  const gchar *text;

  if (!metadata)
    return FALSE;
  text = g_hash_table_lookup (metadata, "kd.arch");
  if (!text || !*text || !model->spec.desc || !_kd_arch_spec_parse (text, &spec, NULL))
    return TRUE;
  ours = _kd_arch_spec_meaning (&model->spec);
  theirs = _kd_arch_spec_meaning (&spec);
  if (g_str_equal (ours, theirs))
    return TRUE;
  g_set_error (error, KD_ERROR, KD_ERROR_MISMATCH, "Weights do not fit the model: path=\"%s\", file's arch=\"%s\", model's arch=\"%s\"; give the "
                                                   "architecture that the weights were made with",
      path, theirs, ours);
  return FALSE;
}

static gboolean
check_asked (const gchar *arch, const gchar *script, GError **error)
{
  if (!arch == !script) {
    g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "Model not named: arch=\"%s\", model=\"%s\"; give one of the two", arch ? arch : "",
        script ? script : "");
    return FALSE;
  }
  return TRUE;
}

KdModel *
kd_model_new (const gchar *engine, const gchar *arch, const gchar *script, const gchar *weights, guint64 seed, KdDtype dtype, guint rank,
    const gint64 *dims, GError **error)
{
  g_autoptr (KdModel) model = g_new0 (KdModel, 1);

  g_atomic_ref_count_init (&model->ref_count);
  model->params = kd_param_set_new (seed);
  model->shapes = g_array_new (FALSE, FALSE, sizeof (Shape));
  g_array_set_clear_func (model->shapes, shape_clear);
  model->rank = MIN (rank, KD_MAX_RANK);
  memcpy (model->dims, dims, model->rank * sizeof *dims);
  if (!check_asked (arch, script, error) || (arch && !_kd_arch_spec_parse (arch, &model->spec, error)))
    return NULL;
  model->engine = kd_engine_get (engine, error);
  if (!model->engine || (script && !open_script (model, script, error)))
    return NULL;
  if (!build (model, dtype, error)) {
    g_prefix_error (error, "Model cannot be built: %s=\"%s\": ", arch ? "arch" : "model", arch ? arch : script);
    return NULL;
  }
  if (weights && (!check_weights_arch (model, weights, error) || !kd_param_set_load (model->params, weights, error)))
    return NULL;
  return g_steal_pointer (&model);
}

KdEngine *
kd_model_engine (KdModel *model)
{
  return model->engine;
}

KdParamSet *
kd_model_params (KdModel *model)
{
  return model->params;
}

guint
kd_model_output_shape (KdModel *model, gint64 *ret_dims)
{
  const Shape *shape = &g_array_index (model->shapes, Shape, 0);

  memcpy (ret_dims, shape->dims, shape->rank * sizeof *ret_dims);
  return shape->rank;
}

guint
kd_model_tap_shape (KdModel *model, const gchar *name, gint64 *ret_dims, GError **error)
{
  g_autoptr (GString) names = g_string_new (NULL);

  for (guint i = 1; i < model->shapes->len; i++) {
    const Shape *shape = &g_array_index (model->shapes, Shape, i);
    if (g_str_equal (shape->name, name)) {
      memcpy (ret_dims, shape->dims, shape->rank * sizeof *ret_dims);
      return shape->rank;
    }
    g_string_append_printf (names, "%s%s", names->len ? " " : "", shape->name);
  }
  g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "No such layer: layer=%s, layers there are=\"%s\"", name, names->str);
  return 0;
}

KdForward *
kd_model_forward (KdModel *model, KdTensor *input, gboolean grad, gboolean input_grad, gboolean training, const KdRandom *random,
    KdVar **ret_input, KdVar **ret_output, GError **error)
{
  if (input->rank != model->rank || memcmp (input->dims + 1, model->dims + 1, (model->rank - 1) * sizeof (gint64))) {
    g_autofree gchar *got = kd_tensor_shape_string (input), *wanted = dims_string (model->rank - 1, model->dims + 1);
    g_set_error (error, KD_ERROR, KD_ERROR_SHAPE, "Shapes differ: input=%s, the model was built for samples of %s", got, wanted);
    return NULL;
  }
  return run (model, input, grad, input_grad, training, random, ret_input, ret_output, error);
}

gchar *
kd_model_fingerprint (KdModel *model)
{
  g_autofree gchar *numbers = kd_param_set_fingerprint (model->params);
  g_autofree gchar *what = model->script ? g_strdup ("script") : _kd_arch_spec_meaning (&model->spec);
  g_autofree gchar *text = g_strjoin ("\n", what, model->script ? model->script_hash : "", numbers, NULL);

  return g_compute_checksum_for_string (G_CHECKSUM_SHA256, text, -1);
}
