/**
 * SECTION:element-kdgradcos
 * @short_description: whether two losses pull the student the same way: the cosine between their gradients in its parameters
 *
 * g1: what the losses before it leave in the parameters of the students before it, g2: what the losses behind it add.
 * grad-cosine = <g1, g2> / (|g1| |g2|), over the parameters whose names match `parameters`: 1 they agree, 0 they do not meet, -1 they fight.
 *
 * Every `every`-th batch costs two more backward passes; what they leave is taken back, so the training is the same to the bit. Two backward passes
 * need a trainer: without one batches just pass. A module in front of it hands its gradient on to the student; one behind it too. Of many
 * processes each looks at its own rows.
 *
 * ## Fields
 *  - grad.*: float32, of the losses before it
 * ## Messages
 * kd-metrics after each epoch: grad-cosine, the mean over the batches that were looked at; batches, their number. A batch where one of the two gradients
 * is 0 has no cosine and is not counted.
 * ## Errors
 * No loss before or behind it, a loss behind it with accumulate=false, no student before it that learns, no parameter that matches, gradients that are not finite.
 * ## Source
 * arXiv:2505.07675 (erjui/DHO): with one head the gradients of labels and teacher fight in the backbone, with two they do not.
 * ## Example
 * |[ ... ! kdstudent arch="mlp dims=64,32,10" ! kdce ! kdgradcos parameters=layer1.* ! kddivergence ! kdtrain ]|
 */
#include <kd/kd.h>

#include <math.h>
#include <string.h>

typedef struct {
  gint64 every;
  gchar *parameters;
} KdGradCosParams;

static const KdParam kd_grad_cos_params[] = {
  KD_PARAM_INT (KdGradCosParams, every, 1, G_MAXINT32, 16, "Look at every so manyth batch of the run, from the first"),
  KD_PARAM_STRING (KdGradCosParams, parameters, "*", "Names of the student's parameters that count, with * and ?; layer1.* leaves out a head after it"),
  KD_PARAM_END
};

static const KdDesc kd_grad_cos_desc = {
  .name = "kdgradcos",
  .title = "Cosine of two gradients",
  .description = "Measures whether the losses before it and those behind it pull the student's parameters the same way",
  .source = "arXiv:2505.07675",
  .formula = "grad-cosine = <g1, g2> / (|g1| |g2|), mean over the batches looked at; g1, g2: gradients in the parameters of the losses before and behind",
  .params = kd_grad_cos_params,
  .params_size = sizeof (KdGradCosParams),
};

typedef struct {
  KdElement parent;
  GMutex lock; /* of what follows: gradients may come in another thread than epochs */
  gdouble sum;
  guint64 count;
} KdGradCos;

typedef struct {
  KdElementClass parent;
} KdGradCosClass;

static GType kd_grad_cos_get_type (void);
G_DEFINE_TYPE (KdGradCos, kd_grad_cos, KD_TYPE_ELEMENT)
#define SELF(element) ((KdGradCos *) (element))

typedef struct {
  const gchar *name; /* interned */
  KdTensor *tensor;
} Gradient;

/* The losses before, as a note on the batch. A reference is enough: a loss that adds to a tensor which others hold makes a copy. */
typedef struct {
  GArray *gradients; /* of Gradient */
  KdTensor *loss;
  gboolean anew;
} Before;

static void
gradient_clear (gpointer gradient)
{
  kd_tensor_unref (((Gradient *) gradient)->tensor);
}

static GArray *
gradients_new (void)
{
  GArray *gradients = g_array_new (FALSE, FALSE, sizeof (Gradient));

  g_array_set_clear_func (gradients, gradient_clear);
  return gradients;
}

static GArray *
gradients_of (const KdBatch *batch)
{
  GArray *gradients = gradients_new ();

  for (guint i = 0; i < kd_batch_n_fields (batch); i++) {
    const KdBatchField *field = kd_batch_nth (batch, i);
    Gradient gradient = { field->name, field->tensor };
    if (!g_str_has_prefix (field->name, "grad."))
      continue;
    kd_tensor_ref (field->tensor);
    g_array_append_val (gradients, gradient);
  }
  return gradients;
}

/* These and no others. */
static void
put_gradients (KdBatch *batch, const GArray *gradients)
{
  for (guint i = kd_batch_n_fields (batch); i-- > 0;)
    if (g_str_has_prefix (kd_batch_nth (batch, i)->name, "grad."))
      kd_batch_remove (batch, kd_batch_nth (batch, i)->name);
  for (guint i = 0; i < gradients->len; i++) {
    const Gradient *gradient = &g_array_index (gradients, Gradient, i);
    kd_batch_set (batch, gradient->name, kd_tensor_ref (gradient->tensor));
  }
}

/* What came to @before to make @all. */
static GArray *
difference (const GArray *all, const GArray *before)
{
  GArray *gradients = gradients_new ();

  for (guint i = 0; i < all->len; i++) {
    const Gradient *sum = &g_array_index (all, Gradient, i), *part = NULL;
    Gradient gradient = { sum->name, kd_tensor_new (KD_FLOAT32, sum->tensor->rank, sum->tensor->dims) };
    gfloat *out = gradient.tensor->data;
    memcpy (out, sum->tensor->data, sum->tensor->n_bytes);
    for (guint j = 0; j < before->len && !part; j++)
      part = g_array_index (before, Gradient, j).name == sum->name ? &g_array_index (before, Gradient, j) : NULL;
    for (gsize j = 0, n = part ? kd_tensor_n_elements (part->tensor) : 0; j < n; j++)
      out[j] -= ((const gfloat *) part->tensor->data)[j];
    g_array_append_val (gradients, gradient);
  }
  return gradients;
}

static void
before_free (gpointer data)
{
  Before *before = data;

  g_array_unref (before->gradients);
  g_clear_pointer (&before->loss, kd_tensor_unref);
  g_free (before);
}

/* accumulate=false takes the sum of the losses out and makes it anew, behind the losses that were before. */
static gboolean
is_anew (const KdBatch *batch)
{
  for (guint i = 0; i < kd_batch_n_fields (batch); i++) {
    const gchar *name = kd_batch_nth (batch, i)->name;
    if (g_str_equal (name, "loss"))
      return FALSE;
    if (g_str_has_prefix (name, "loss."))
      return TRUE;
  }
  return FALSE;
}

static KdLayout *
kd_grad_cos_negotiate (KdElement *element, const KdLayout *in, GError **error)
{
  g_autofree gchar *names = kd_layout_names (in);

  if (!kd_element_has_trainer (element) || strstr (names, "grad."))
    return kd_layout_copy (in);
  g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "No loss before: element=%s, layout=\"%s\"; put one loss before it and one behind it", GST_OBJECT_NAME (element), names);
  return NULL;
}

static gboolean
kd_grad_cos_process (KdElement *element, GstBuffer **buffer, KdBatch *batch, GError **error)
{
  const KdGradCosParams *p = kd_element_params (element);
  Before *before;

  if (!kd_element_has_trainer (element) || (batch->flags & KD_BATCH_VALIDATION) || batch->index % (guint64) p->every != 0)
    return TRUE;
  before = g_new0 (Before, 1);
  before->gradients = gradients_of (batch);
  before->anew = is_anew (batch);
  before->loss = kd_batch_peek (batch, "loss");
  if (before->loss)
    kd_tensor_ref (before->loss);
  kd_batch_set_note (batch, element, before, before_free);
  return TRUE;
}

static gboolean
check_behind (KdElement *element, const KdBatch *batch, const Before *before, GError **error)
{
  if (kd_batch_peek (batch, "loss") == before->loss) {
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "No loss behind: element=%s; put one loss before it and one behind it", GST_OBJECT_NAME (element));
    return FALSE;
  }
  if (!before->anew && is_anew (batch)) {
    g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "Loss behind takes the place of those before: element=%s, accumulate=false; nothing is left to compare, "
                                                  "set accumulate=true or take kdgradcos out",
        GST_OBJECT_NAME (element));
    return FALSE;
  }
  return TRUE;
}

/* One backward pass of @gradients alone through what is before this element. */
static gboolean
look (KdElement *element, KdBackward *backward, const GArray *gradients, KdProbe *probe)
{
  KdBackward own = { .buffer = backward->buffer, .batch = backward->batch, .scale = 1, .max_in_flight = backward->max_in_flight, .probe = probe };

  put_gradients (backward->batch, gradients);
  gst_pad_push_event (kd_element_sink_pad (element), kd_event_new_pointer (GST_EVENT_CUSTOM_UPSTREAM, KD_EVENT_BACKWARD, &own));
  return !own.failed;
}

static gboolean
add_cosine (KdElement *element, const KdProbe *a, const KdProbe *b, GError **error)
{
  const KdGradCosParams *p = kd_element_params (element);
  KdGradCos *self = SELF (element);
  gdouble dot = 0, aa = 0, bb = 0;

  if (a->n_students == 0 || a->grads->len == 0) {
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Nothing to compare: element=%s, students that learn before it=%u, their numbers whose names match parameters=\"%s\": %u; "
                                                  "put kdstudent before it, and name its parameters as in its safetensors file",
        GST_OBJECT_NAME (element), a->n_students, p->parameters, a->grads->len);
    return FALSE;
  }
  for (guint i = 0; i < a->grads->len; i++) {
    gdouble x = g_array_index (a->grads, gfloat, i), y = g_array_index (b->grads, gfloat, i);
    dot += x * y;
    aa += x * x;
    bb += y * y;
  }
  if (!isfinite (aa) || !isfinite (bb)) {
    g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "Gradient not finite: element=%s, norm before=%g, norm behind=%g; lower the learning rate or set clip-norm", GST_OBJECT_NAME (element),
        sqrt (aa), sqrt (bb));
    return FALSE;
  }
  if (aa == 0 || bb == 0)
    return TRUE;
  g_mutex_lock (&self->lock);
  self->sum += dot / (sqrt (aa) * sqrt (bb));
  self->count++;
  g_mutex_unlock (&self->lock);
  return TRUE;
}

static gboolean
compare (KdElement *element, KdBackward *backward, const Before *before, GError **error)
{
  const KdGradCosParams *p = kd_element_params (element);
  g_autoptr (GArray) all = gradients_of (backward->batch), behind = difference (all, before->gradients);
  GPatternSpec *pattern = g_pattern_spec_new (p->parameters ? p->parameters : "");
  g_autoptr (GArray) a = g_array_new (FALSE, FALSE, sizeof (gfloat)), b = g_array_new (FALSE, FALSE, sizeof (gfloat));
  KdProbe first = { .pattern = pattern, .grads = a }, second = { .pattern = pattern, .grads = b };
  gboolean ok = look (element, backward, before->gradients, &first) && look (element, backward, behind, &second);

  put_gradients (backward->batch, all);
  g_pattern_spec_free (pattern);
  return ok && add_cosine (element, &first, &second, error);
}

/* The gradients of the losses behind, and of modules there, are all on the batch when the trainer's kd-backward comes by. */
static gboolean
kd_grad_cos_upstream (KdElement *element, GstEvent *event, GError **error)
{
  KdBackward *backward = kd_event_get_pointer (event, KD_EVENT_BACKWARD);
  const Before *before = backward && !backward->probe ? kd_batch_get_note (backward->batch, element) : NULL;

  if (!before)
    return FALSE;
  if (!check_behind (element, backward->batch, before, error) || !compare (element, backward, before, error))
    backward->failed = TRUE;
  kd_batch_drop_note (backward->batch, element);
  return !backward->failed;
}

static gboolean
kd_grad_cos_epoch (KdElement *element, guint epoch, GError **error)
{
  KdGradCos *self = SELF (element);
  gdouble sum;
  guint64 count;

  g_mutex_lock (&self->lock);
  sum = self->sum;
  count = self->count;
  self->sum = 0;
  self->count = 0;
  g_mutex_unlock (&self->lock);
  if (count > 0)
    gst_element_post_message (GST_ELEMENT (self), gst_message_new_element (GST_OBJECT (self), gst_structure_new ("kd-metrics", "element", G_TYPE_STRING, GST_OBJECT_NAME (self), "epoch", G_TYPE_UINT, epoch, "final", G_TYPE_BOOLEAN, FALSE, "batches", G_TYPE_UINT64, count, "grad-cosine", G_TYPE_DOUBLE, sum / (gdouble) count, NULL)));
  return TRUE;
}

static gboolean
kd_grad_cos_start (KdElement *element, GError **error)
{
  SELF (element)->sum = 0;
  SELF (element)->count = 0;
  return TRUE;
}

static void
kd_grad_cos_finalize (GObject *object)
{
  g_mutex_clear (&SELF (object)->lock);
  G_OBJECT_CLASS (kd_grad_cos_parent_class)->finalize (object);
}

static void
kd_grad_cos_class_init (KdGradCosClass *klass)
{
  KdElementClass *element = KD_ELEMENT_CLASS (klass);

  kd_element_class_install (element, &kd_grad_cos_desc, "diagnostic", "Filter/Analyzer", NULL, 0);
  G_OBJECT_CLASS (klass)->finalize = kd_grad_cos_finalize;
  element->negotiate = kd_grad_cos_negotiate;
  element->process = kd_grad_cos_process;
  element->upstream = kd_grad_cos_upstream;
  element->epoch = kd_grad_cos_epoch;
  element->start = kd_grad_cos_start;
}

static void
kd_grad_cos_init (KdGradCos *self)
{
  g_mutex_init (&self->lock);
}

KD_PLUGIN_DEFINE ("kdstream gradient cosine", return gst_element_register (plugin, "kdgradcos", GST_RANK_NONE, kd_grad_cos_get_type ());)
