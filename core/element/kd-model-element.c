/* KdModelElement: from batches to outputs and, in training, from gradients back to parameters. The tape of a batch hangs on the batch. */
#include "kd-model-element.h"
#include "kd-leaf.h"
#include "kd-model-private.h"

#include <string.h>

static const KdParam model_base_params[] = {
  KD_PARAM_STRING (KdModelOptions, arch, "", "Architecture and its keys, such as 'mlp dims=64,32,10'"),
  KD_PARAM_STRING (KdModelOptions, model, "", "A TorchScript file (.pt), instead of arch. Code: load only what you trust"),
  KD_PARAM_STRING (KdModelOptions, weights, "", "A safetensors file with the parameters; without it they are drawn from seed"),
  KD_PARAM_STRING (KdModelOptions, engine, "torch", "The tensor engine"),
  KD_PARAM_STRING (KdModelOptions, features, "", "Layers to give out as features, with commas"),
  KD_PARAM_STRING (KdModelOptions, save, "", "A safetensors file to write when the run ends"),
  KD_PARAM_UINT64 (KdModelOptions, seed, 0, "Key of the initial parameters and of dropout"),
  KD_PARAM_BOOL (KdModelOptions, trainable, TRUE, "Whether steps change the parameters; gradients pass either way"),
  KD_PARAM_DOUBLE (KdModelOptions, lr_scale, 0, 1e6, 1, "Multiplies the trainer's learning rate"),
  KD_PARAM_END
};

typedef KdModelState KdModelElementPrivate;
G_DEFINE_ABSTRACT_TYPE_WITH_PRIVATE (KdModelElement, kd_model_element, KD_TYPE_ELEMENT)
#define PRIVATE(self) ((KdModelState *) kd_model_element_get_instance_private (KD_MODEL_ELEMENT (self)))
#define OPTIONS(self) ((const KdModelOptions *) kd_element_base_params (KD_ELEMENT (self)))
#define DESC(self) ((const KdModelDesc *) KD_ELEMENT_GET_CLASS (self)->desc)

static void
tape_free (gpointer data)
{
  KdTape *tape = data;

  kd_forward_free (tape->forward);
  g_atomic_int_add (tape->in_flight, -1);
  g_free (tape);
}

static const gchar *
empty_to_null (const gchar *text)
{
  return text && *text ? text : NULL;
}

static const gchar *
role_name (const KdModelDesc *desc)
{
  return desc->role == KD_ROLE_TEACHER || desc->role == KD_ROLE_PEER ? "teacher" : "student";
}

/* A peer that may not change is a teacher: a gradient sent to it must be missed, not swallowed. */
static gboolean
takes_gradients (KdModelElement *self)
{
  KdModelRole role = DESC (self)->role;

  return role != KD_ROLE_TEACHER && (role != KD_ROLE_PEER || OPTIONS (self)->trainable);
}

/* kdteacher only-missing: what a cache before it has is left alone. */
static gboolean
fills_holes (KdModelElement *self)
{
  const KdParam *param = DESC (self)->params ? kd_param_find (DESC (self)->params, "only-missing") : NULL;

  return param && *(const gboolean *) ((const guint8 *) kd_element_params (KD_ELEMENT (self)) + param->offset);
}

static void
add_output (KdModelState *priv, const gchar *tap, const gchar *field)
{
  g_autofree gchar *grad = g_strconcat ("grad.", field, NULL);

  priv->outputs[priv->n_outputs++] = (KdModelOutput) { tap ? g_intern_string (tap) : NULL, g_intern_string (field), g_intern_string (grad) };
}

/* Names of what goes in and comes out: from the role, or for a module from its own `in` and `out`. */
static gboolean
name_fields (KdModelElement *self, GError **error)
{
  KdModelState *priv = PRIVATE (self);
  const KdModelDesc *desc = DESC (self);
  gconstpointer params = kd_element_params (KD_ELEMENT (self));
  g_auto (GStrv) taps = g_strsplit (OPTIONS (self)->features ? OPTIONS (self)->features : "", ",", -1);

  priv->n_outputs = 0;
  priv->input_grad = NULL;
  if (desc->role == KD_ROLE_MODULE) {
    g_autofree gchar *in = kd_param_to_string (kd_param_find (desc->params, "in"), params);
    g_autofree gchar *out = kd_param_to_string (kd_param_find (desc->params, "out"), params);
    g_autofree gchar *grad = g_strconcat ("grad.", in, NULL);
    if (!kd_field_name_is_valid (in) || !kd_field_name_is_valid (out)) {
      g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Field name not valid: element=%s, in=\"%s\", out=\"%s\"; name the field to read and the one to make",
          GST_OBJECT_NAME (self), in, out);
      return FALSE;
    }
    priv->input = g_intern_string (in);
    /* What a teacher or the data said is constant: no gradient goes there. */
    if (g_str_has_prefix (in, "student."))
      priv->input_grad = g_intern_string (grad);
    add_output (priv, NULL, out);
    return TRUE;
  }
  g_autofree gchar *logits = g_strconcat (role_name (desc), ".logits", NULL);
  priv->input = g_intern_static_string ("input");
  add_output (priv, NULL, logits);
  for (guint i = 0; taps[i]; i++) {
    g_autofree gchar *field = g_strconcat (role_name (desc), ".features.", g_strstrip (taps[i]), NULL);
    if (!*taps[i])
      continue;
    if (priv->n_outputs == KD_MODEL_MAX_OUTPUTS || !kd_field_name_is_valid (field)) {
      g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Layer not usable as a field: element=%s, features=%s, layer=\"%s\"", GST_OBJECT_NAME (self),
          OPTIONS (self)->features, taps[i]);
      return FALSE;
    }
    add_output (priv, taps[i], field);
  }
  return TRUE;
}

static const KdLayoutField *
find_input (KdModelElement *self, const KdLayout *in, GError **error)
{
  KdModelState *priv = PRIVATE (self);
  const KdLayoutField *field = kd_layout_find (in, priv->input);

  if (!field) {
    g_autofree gchar *names = kd_layout_names (in), *providers = kd_providers (priv->input);
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Field missing: element=%s, field=%s, layout=\"%s\"; put %s before it", GST_OBJECT_NAME (self),
        priv->input, names, providers);
    return NULL;
  }
  for (guint i = 1; i < field->rank; i++)
    if (field->dims[i] == KD_DIM_ANY) {
      g_autofree gchar *what = kd_layout_field_string (field);
      g_set_error (error, KD_ERROR, KD_ERROR_SHAPE, "Shape not fixed: element=%s, field=%s, layout=%s; a model needs fixed axes",
          GST_OBJECT_NAME (self), field->name, what);
      return NULL;
    }
  return field;
}

static gboolean
build_model (KdModelElement *self, const KdLayoutField *input, GError **error)
{
  KdModelState *priv = PRIVATE (self);
  const KdModelDesc *desc = DESC (self);
  const KdModelOptions *options = OPTIONS (self);
  g_autofree gchar *own = desc->arch_of ? desc->arch_of (kd_element_params (KD_ELEMENT (self)), error) : NULL;
  const gchar *arch = own ? own : empty_to_null (options->arch);

  if (desc->arch_of && !own)
    return FALSE;
  if (!arch == !empty_to_null (options->model)) {
    g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "Model not named: element=%s, arch=\"%s\", model=\"%s\"; give one of the two, such as arch='mlp dims=64,10'",
        GST_OBJECT_NAME (self), arch ? arch : "", options->model ? options->model : "");
    return FALSE;
  }
  if (priv->model && priv->input_rank == input->rank && !memcmp (priv->input_dims, input->dims, input->rank * sizeof (gint64)))
    return TRUE; /* the same layout again: the parameters stay */
  g_clear_pointer (&priv->model, kd_model_unref);
  priv->model = kd_model_new (empty_to_null (options->engine), arch, empty_to_null (options->model), empty_to_null (options->weights), options->seed,
      input->dtype, input->rank, input->dims, error);
  priv->input_rank = input->rank;
  memcpy (priv->input_dims, input->dims, sizeof input->dims);
  if (!priv->model)
    g_prefix_error (error, "element=%s: ", GST_OBJECT_NAME (self));
  return priv->model != NULL;
}

static KdLayout *
model_negotiate (KdElement *element, const KdLayout *in, GError **error)
{
  KdModelElement *self = KD_MODEL_ELEMENT (element);
  KdModelState *priv = PRIVATE (self);
  const KdLayoutField *input;
  g_autoptr (KdLayout) out = NULL;

  if (!name_fields (self, error))
    return NULL;
  input = find_input (self, in, error);
  if (!input || !build_model (self, input, error))
    return NULL;
  out = kd_layout_copy (in);
  for (guint i = 0; i < priv->n_outputs; i++) {
    gint64 dims[KD_MAX_RANK];
    guint rank = priv->outputs[i].tap ? kd_model_tap_shape (priv->model, priv->outputs[i].tap, dims, error) : kd_model_output_shape (priv->model, dims);
    if (rank == 0)
      return NULL;
    kd_layout_set (out, priv->outputs[i].field, KD_FLOAT32, rank, dims);
  }
  if (fills_holes (self))
    return kd_model_missing_check (element, priv, in, out, error) ? kd_layout_copy (in) : NULL;
  return g_steal_pointer (&out);
}

static gboolean
put_outputs (KdModelElement *self, KdForward *forward, KdVar *logits, KdBatch *batch, KdVar **ret_vars, GError **error)
{
  KdModelState *priv = PRIVATE (self);

  for (guint i = 0; i < priv->n_outputs; i++) {
    const KdModelOutput *output = &priv->outputs[i];
    KdTensor *tensor;
    ret_vars[i] = output->tap ? kd_forward_find_tap (forward, output->tap) : logits;
    tensor = kd_forward_tensor (forward, ret_vars[i], error);
    if (!tensor)
      return FALSE;
    kd_batch_set (batch, output->field, tensor);
  }
  return TRUE;
}

static gboolean
model_process (KdElement *element, GstBuffer **buffer, KdBatch *batch, GError **error)
{
  KdModelElement *self = KD_MODEL_ELEMENT (element);
  KdModelState *priv = PRIVATE (self);
  KdTensor *input = kd_batch_read (batch, priv->input);
  gboolean train = takes_gradients (self) && !(batch->flags & KD_BATCH_VALIDATION) && kd_element_has_trainer (element);
  KdVar *vars[KD_MODEL_MAX_OUTPUTS] = { NULL }, *input_var = NULL, *logits = NULL;
  g_autoptr (KdForward) forward = NULL;
  KdRandom random;
  KdTape *tape;

  if (!input) {
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Field missing: element=%s, field=%s, though the layout promised it", GST_OBJECT_NAME (self), priv->input);
    return FALSE;
  }
  if (fills_holes (self)) {
    gboolean done = kd_model_run_missing (element, priv, OPTIONS (self)->seed, batch, error);
    if (!done)
      g_prefix_error (error, "element=%s: ", GST_OBJECT_NAME (self));
    return done;
  }
  kd_random_init (&random, OPTIONS (self)->seed, kd_random_purpose ("dropout"), batch->epoch, batch->index);
  forward = kd_model_forward (priv->model, input, train, train && priv->input_grad, train, &random, &input_var, &logits, error);
  if (!forward || !put_outputs (self, forward, logits, batch, vars, error)) {
    g_prefix_error (error, "element=%s: ", GST_OBJECT_NAME (self));
    return FALSE;
  }
  if (!train)
    return TRUE;
  g_atomic_pointer_set (&priv->thread, g_thread_self ());
  tape = g_new0 (KdTape, 1);
  *tape = (KdTape) { .forward = g_steal_pointer (&forward), .input = input_var, .in_flight = &priv->in_flight };
  memcpy (tape->vars, vars, sizeof vars);
  g_atomic_int_inc (&priv->in_flight);
  kd_batch_set_note (batch, self, tape, tape_free);
  return TRUE;
}

static gboolean
save_weights (KdModelElement *self, GError **error)
{
  const gchar *path = empty_to_null (OPTIONS (self)->save);
  const gchar *metadata[] = { "kd.arch", OPTIONS (self)->arch ? OPTIONS (self)->arch : "", "kd.created-by", "kdstream " KD_PLUGIN_VERSION, NULL };

  /* All ranks of a run have the same weights; the first one writes them. */
  return !path || kd_world_rank () > 0 || !PRIVATE (self)->model || kd_element_is_dry_run (GST_ELEMENT (self)) || kd_param_set_save (kd_model_params (PRIVATE (self)->model), path, metadata, error);
}

static gboolean
model_upstream (KdElement *element, GstEvent *event, GError **error)
{
  KdModelElement *self = KD_MODEL_ELEMENT (element);
  KdBackward *backward = kd_event_get_pointer (event, KD_EVENT_BACKWARD);
  KdReduce *reduce = kd_event_get_pointer (event, KD_EVENT_REDUCE);
  KdStepCall *step = kd_event_get_pointer (event, KD_EVENT_STEP);
  KdLookaheadCall *ahead = kd_event_get_pointer (event, KD_EVENT_LOOKAHEAD);
  gboolean ok = TRUE;

  if (DESC (self)->role == KD_ROLE_TEACHER || !PRIVATE (self)->model)
    return FALSE;
  if (ahead) {
    if (!ahead->taken)
      kd_model_run_lookahead (element, PRIVATE (self), OPTIONS (self), ahead);
  } else if (backward && backward->probe) {
    ok = kd_model_run_probe (element, PRIVATE (self), DESC (self)->role == KD_ROLE_STUDENT && OPTIONS (self)->trainable, backward, error);
    backward->failed = backward->failed || !ok;
  } else if (backward) {
    g_atomic_int_set (&PRIVATE (self)->elsewhere, g_atomic_pointer_get (&PRIVATE (self)->thread) != g_thread_self ());
    ok = kd_model_run_backward (element, PRIVATE (self), OPTIONS (self), backward, error);
    backward->failed = backward->failed || !ok;
  } else if (reduce) {
    ok = kd_model_run_reduce (PRIVATE (self), OPTIONS (self), reduce, error);
    reduce->failed = reduce->failed || !ok;
  } else if (step)
    kd_model_run_step (PRIVATE (self), OPTIONS (self), step);
  else if (gst_event_has_name (event, KD_EVENT_FINISH))
    ok = save_weights (self, error);
  return ok;
}

static gboolean
model_finish (KdElement *element, GError **error)
{
  /* With a trainer the last step may still come: it says when (kd-finish). */
  return kd_element_has_trainer (element) || save_weights (KD_MODEL_ELEMENT (element), error);
}

static void
model_identify (KdElement *element, GstStructure *identity)
{
  KdModelElement *self = KD_MODEL_ELEMENT (element);
  const KdModelOptions *options = OPTIONS (self);
  g_autofree gchar *fingerprint = NULL, *spec = NULL;

  if (DESC (self)->role != KD_ROLE_TEACHER || !PRIVATE (self)->model)
    return;
  fingerprint = kd_model_fingerprint (PRIVATE (self)->model);
  spec = g_strdup_printf ("arch=\"%s\" model=\"%s\" weights=\"%s\" seed=%" G_GUINT64_FORMAT " features=\"%s\"", options->arch ? options->arch : "",
      options->model ? options->model : "", options->weights ? options->weights : "", options->seed, options->features ? options->features : "");
  if (fills_holes (self))
    kd_model_missing_identify (element, PRIVATE (self), identity, fingerprint, spec);
  gst_structure_set (identity, "teacher", G_TYPE_STRING, fingerprint, "teacher-spec", G_TYPE_STRING, spec, NULL);
}

static gboolean
model_save (KdElement *element, GHashTable *table, GError **error)
{
  if (PRIVATE (element)->model && DESC (element)->role != KD_ROLE_TEACHER)
    kd_param_set_get_state (kd_model_params (PRIVATE (element)->model), table);
  return TRUE;
}

static gboolean
model_load (KdElement *element, GHashTable *table, GError **error)
{
  return DESC (element)->role == KD_ROLE_TEACHER || kd_param_set_set_state (kd_model_params (PRIVATE (element)->model), table, error);
}

static void
model_stop (KdElement *element)
{
  g_clear_pointer (&PRIVATE (element)->model, kd_model_unref);
  g_clear_error (&PRIVATE (element)->stale);
  PRIVATE (element)->thread = NULL;
  PRIVATE (element)->elsewhere = 0;
}

static void
kd_model_element_class_init (KdModelElementClass *klass)
{
  KdElementClass *element_class = KD_ELEMENT_CLASS (klass);

  element_class->negotiate = model_negotiate;
  element_class->process = model_process;
  element_class->upstream = model_upstream;
  element_class->finish = model_finish;
  element_class->identify = model_identify;
  element_class->save = model_save;
  element_class->load = model_load;
  element_class->stop = model_stop;
}

static void
kd_model_element_init (KdModelElement *self)
{
}

static void
model_leaf_class_init (gpointer klass, gpointer desc)
{
  kd_element_class_install (klass, desc, "model", "Filter/Model", model_base_params, sizeof (KdModelOptions));
}

gboolean
kd_model_element_register (GstPlugin *plugin, const KdModelDesc *desc)
{
  return kd_element_register (plugin, (const KdDesc *) desc, KD_TYPE_MODEL_ELEMENT, model_leaf_class_init);
}
