#include "kd-bind.h"
#include "kd-element.h"

#include <string.h>

/* "{prop}" -> the parameter's value. (transfer full); NULL with an error when there is none or it is empty. */
static gchar *
substitute (const KdDesc *desc, gconstpointer params, const gchar *text, const gchar *owner, GError **error)
{
  GString *out = g_string_new (NULL);

  while (*text) {
    const gchar *end = *text == '{' ? strchr (text, '}') : NULL;
    if (!end) {
      g_string_append_c (out, *text++);
      continue;
    }
    g_autofree gchar *name = g_strndup (text + 1, end - text - 1);
    const KdParam *param = kd_param_find (desc->params, name);
    g_autofree gchar *value = param ? kd_param_to_string (param, params) : NULL;
    if (!value || !*value) {
      g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Property is empty: element=%s, property=%s; set it", owner, name);
      g_string_free (out, TRUE);
      return NULL;
    }
    g_string_append (out, value);
    text = end + 1;
  }
  return g_string_free (out, FALSE);
}

static void
parse_axes (KdBoundField *field, const gchar *shape)
{
  g_auto (GStrv) words = g_strsplit (shape, " ", -1);

  for (guint i = 0; words[i]; i++) {
    KdAxis axis = { KD_AXIS_SIZE, 0 };
    if (!*words[i])
      continue;
    if (g_str_equal (words[i], "*"))
      axis.kind = KD_AXIS_LEADING;
    else if (g_str_equal (words[i], "..."))
      axis.kind = KD_AXIS_TRAILING;
    else if (g_str_equal (words[i], "N"))
      axis.kind = KD_AXIS_SAMPLES;
    else if (g_ascii_isupper (words[i][0]) && !words[i][1])
      axis = (KdAxis) { KD_AXIS_LETTER, words[i][0] - 'A' };
    else
      axis.value = g_ascii_strtoll (words[i], NULL, 10);
    g_assert (field->n_axes < KD_MAX_RANK);
    field->axes[field->n_axes++] = axis;
  }
}

static gboolean
bind_table (const KdDesc *desc, const KdFieldSpec *specs, gconstpointer params, const gchar *owner, KdBoundField *fields, guint *ret_n,
    GError **error)
{
  for (; specs && specs->name; specs++) {
    KdBoundField *field = &fields[*ret_n];
    g_autofree gchar *name = substitute (desc, params, specs->name, owner, error);
    g_autofree gchar *shape = name ? substitute (desc, params, specs->shape, owner, error) : NULL;
    if (!shape)
      return FALSE;
    if (!kd_field_name_is_valid (name)) {
      g_set_error (error, KD_ERROR, KD_ERROR_FIELD,
          "Field name not valid: element=%s, field=\"%s\"; use lower case letters, digits and dots", owner, name);
      return FALSE;
    }
    g_assert (*ret_n < KD_MAX_FIELDS);
    field->name = g_intern_string (name);
    field->shape = g_intern_string (shape);
    field->dtype = specs->dtype;
    field->flags = specs->flags;
    field->absent = specs->when && !G_STRUCT_MEMBER (gboolean, params, kd_param_find (desc->params, specs->when)->offset);
    parse_axes (field, shape);
    (*ret_n)++;
  }
  return TRUE;
}

KdBinding *
kd_binding_new (const KdDesc *desc, const KdFieldSpec *outputs, gconstpointer params, const gchar *owner, GError **error)
{
  g_autoptr (KdBinding) binding = g_new0 (KdBinding, 1);

  binding->desc = desc;
  binding->owner = g_strdup (owner);
  if (desc->check && !desc->check (params, error))
    return NULL;
  if (!bind_table (desc, desc->fields, params, owner, binding->in, &binding->n_in, error) ||
      !bind_table (desc, outputs, params, owner, binding->out, &binding->n_out, error))
    return NULL;
  for (guint i = 0; i < binding->n_in; i++)
    if (binding->in[i].absent) /* an input is read all the same; nobody asked for its gradient */
      binding->in[i].flags &= ~(KdFieldFlags) KD_FIELD_GRAD;
  return g_steal_pointer (&binding);
}

void
kd_binding_free (KdBinding *binding)
{
  if (!binding)
    return;
  g_free (binding->owner);
  g_free (binding);
}

static void
sizes_init (KdSizes *sizes, gint64 n_samples)
{
  for (guint i = 0; i < 26; i++)
    sizes->letter[i] = -1;
  sizes->leading_rank = 0;
  sizes->n_samples = n_samples;
}

static gchar *
dims_string (guint rank, const gint64 *dims)
{
  GString *text = g_string_new ("[");

  for (guint i = 0; i < rank; i++) {
    if (dims[i] < 0)
      g_string_append_printf (text, "%s%s", i ? "," : "", i ? "?" : "N");
    else
      g_string_append_printf (text, "%s%" G_GINT64_FORMAT, i ? "," : "", dims[i]);
  }
  g_string_append_c (text, ']');
  return g_string_free (text, FALSE);
}

static gboolean
refuse_shape (const KdBinding *binding, const KdBoundField *field, guint rank, const gint64 *dims, const gchar *reason, GError **error)
{
  g_autofree gchar *got = dims_string (rank, dims);

  g_set_error (error, KD_ERROR, KD_ERROR_SHAPE, "Shapes differ: element=%s, field=%s, shape=%s, wanted=[%s], %s", binding->owner,
      field->name, got, field->shape, reason);
  return FALSE;
}

static gboolean
bind_leading (const KdBinding *binding, const KdBoundField *field, guint n, guint rank, const gint64 *dims, KdSizes *sizes, GError **error)
{
  if (sizes->leading_rank == 0) {
    sizes->leading_rank = n;
    memcpy (sizes->leading, dims, n * sizeof *dims);
    return TRUE;
  }
  for (guint i = 0; i < n || i < sizes->leading_rank; i++)
    if (n != sizes->leading_rank || (dims[i] >= 0 && sizes->leading[i] >= 0 && dims[i] != sizes->leading[i])) {
      g_autofree gchar *other = dims_string (sizes->leading_rank, sizes->leading);
      g_autofree gchar *reason = g_strdup_printf ("the fields before it have the rows %s", other);
      return refuse_shape (binding, field, rank, dims, reason, error);
    }
  return TRUE;
}

static gboolean
bind_letter (const KdBinding *binding, const KdBoundField *field, gint64 letter, guint rank, const gint64 *dims, gint64 size, KdSizes *sizes,
    GError **error)
{
  if (size < 0)
    return TRUE;
  if (sizes->letter[letter] < 0)
    sizes->letter[letter] = size;
  if (sizes->letter[letter] != size) {
    g_autofree gchar *reason = g_strdup_printf ("axis=%c is %" G_GINT64_FORMAT " in the fields before it", (gchar) ('A' + letter),
        sizes->letter[letter]);
    return refuse_shape (binding, field, rank, dims, reason, error);
  }
  return TRUE;
}

static gboolean
match_axes (const KdBinding *binding, const KdBoundField *field, guint rank, const gint64 *dims, KdSizes *sizes, GError **error)
{
  guint fixed = 0, at = 0;
  gboolean open = FALSE;

  for (guint i = 0; i < field->n_axes; i++) {
    open = open || field->axes[i].kind == KD_AXIS_LEADING || field->axes[i].kind == KD_AXIS_TRAILING;
    fixed += field->axes[i].kind != KD_AXIS_LEADING && field->axes[i].kind != KD_AXIS_TRAILING;
  }
  if (open ? rank < MAX (fixed, field->flags & KD_FIELD_TABLE ? 0 : 1) : rank != fixed)
    return refuse_shape (binding, field, rank, dims, "the number of axes is another", error);
  for (guint i = 0; i < field->n_axes; i++) {
    KdAxis axis = field->axes[i];
    guint n = axis.kind == KD_AXIS_LEADING ? rank - fixed : axis.kind == KD_AXIS_TRAILING ? rank - at
                                                                                          : 1;
    gint64 size = at < rank ? dims[at] : -1;
    if (axis.kind == KD_AXIS_LEADING && n == 0)
      return refuse_shape (binding, field, rank, dims, "the samples' axis is missing", error);
    if (axis.kind == KD_AXIS_LEADING && !bind_leading (binding, field, n, rank, dims, sizes, error))
      return FALSE;
    if (axis.kind == KD_AXIS_LETTER && !bind_letter (binding, field, axis.value, rank, dims, size, sizes, error))
      return FALSE;
    if (axis.kind == KD_AXIS_SIZE && size >= 0 && size != axis.value)
      return refuse_shape (binding, field, rank, dims, "a size is another", error);
    if (axis.kind == KD_AXIS_SAMPLES && size >= 0 && sizes->n_samples >= 0 && size != sizes->n_samples)
      return refuse_shape (binding, field, rank, dims, "the number of samples is another", error);
    at += n;
  }
  return TRUE;
}

static gboolean
check_dtype (const KdBinding *binding, const KdBoundField *field, KdDtype dtype, GError **error)
{
  g_autofree gchar *wanted = NULL;

  if (dtype & field->dtype)
    return TRUE;
  wanted = kd_dtypes_to_string (field->dtype);
  g_set_error (error, KD_ERROR, KD_ERROR_DTYPE, "Type not accepted: element=%s, field=%s, dtype=%s, wanted=%s", binding->owner,
      field->name, kd_dtype_name (dtype), wanted);
  return FALSE;
}

static gboolean
refuse_missing (const KdBinding *binding, const KdBoundField *field, const gchar *names, GError **error)
{
  g_autofree gchar *providers = kd_providers (field->name);

  g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Field missing: element=%s, field=%s, layout=\"%s\"; put %s before it", binding->owner,
      field->name, names, providers);
  return FALSE;
}

/* Of the fields of which one has to be there, the first when none is; else NULL. */
static const KdBoundField *
find_none_of (const KdBinding *binding, const KdLayout *layout)
{
  const KdBoundField *first = NULL;

  for (guint i = binding->n_in; i-- > 0;) {
    if (!(binding->in[i].flags & KD_FIELD_ONE_OF))
      continue;
    if (kd_layout_find (layout, binding->in[i].name))
      return NULL;
    first = &binding->in[i];
  }
  return first;
}

gboolean
kd_binding_check_layout (const KdBinding *binding, const KdLayout *layout, KdSizes *ret_sizes, GError **error)
{
  const KdBoundField *none;

  sizes_init (ret_sizes, -1);
  for (guint i = 0; i < binding->n_in; i++) {
    const KdBoundField *field = &binding->in[i];
    const KdLayoutField *have = kd_layout_find (layout, field->name);
    if (!have && (field->flags & KD_FIELD_OPTIONAL))
      continue;
    if (!have) {
      g_autofree gchar *names = kd_layout_names (layout);
      return refuse_missing (binding, field, names, error);
    }
    if (!check_dtype (binding, field, have->dtype, error) ||
        !match_axes (binding, field, have->rank, have->dims, ret_sizes, error))
      return FALSE;
  }
  none = find_none_of (binding, layout);
  if (none) {
    g_autofree gchar *names = kd_layout_names (layout);
    return refuse_missing (binding, none, names, error);
  }
  return TRUE;
}

gboolean
kd_binding_read (const KdBinding *binding, KdBatch *batch, KdTensor **ret_in, KdSizes *ret_sizes, GError **error)
{
  sizes_init (ret_sizes, batch->n_samples);
  for (guint i = 0; i < binding->n_in; i++) {
    const KdBoundField *field = &binding->in[i];
    KdTensor *tensor = field->flags & KD_FIELD_PEEK ? kd_batch_peek (batch, field->name) : kd_batch_read (batch, field->name);
    if (tensor && (field->flags & KD_FIELD_UNIT) && tensor->dtype == KD_UINT8) {
      tensor = kd_tensor_unit_float (tensor);
      kd_batch_set (batch, field->name, tensor);
    }
    ret_in[i] = tensor;
    if (!tensor && (field->flags & KD_FIELD_OPTIONAL))
      continue;
    if (!tensor) {
      g_autoptr (KdLayout) layout = kd_batch_layout (batch);
      g_autofree gchar *names = kd_layout_names (layout);
      return refuse_missing (binding, field, names, error);
    }
    if (!check_dtype (binding, field, tensor->dtype, error) ||
        !match_axes (binding, field, tensor->rank, tensor->dims, ret_sizes, error))
      return FALSE;
    if (field->n_axes && tensor->rank && tensor->dims[0] != batch->n_samples && !(field->flags & KD_FIELD_TABLE))
      return refuse_shape (binding, field, tensor->rank, tensor->dims, "the first axis is not the number of samples", error);
  }
  return TRUE;
}

gboolean
kd_bound_shape (const KdBoundField *field, const KdSizes *sizes, guint *ret_rank, gint64 *ret_dims)
{
  guint rank = 0;

  for (guint i = 0; i < field->n_axes; i++) {
    KdAxis axis = field->axes[i];
    if (axis.kind == KD_AXIS_TRAILING || (axis.kind == KD_AXIS_LEADING && sizes->leading_rank == 0))
      return FALSE;
    if (axis.kind == KD_AXIS_LEADING) {
      for (guint j = 0; j < sizes->leading_rank && rank < KD_MAX_RANK; j++)
        ret_dims[rank++] = sizes->leading[j];
      continue;
    }
    if (rank >= KD_MAX_RANK || (axis.kind == KD_AXIS_LETTER && sizes->letter[axis.value] < 0))
      return FALSE;
    ret_dims[rank++] = axis.kind == KD_AXIS_LETTER ? sizes->letter[axis.value]
        : axis.kind == KD_AXIS_SIZE                ? axis.value
                                                   : sizes->n_samples;
  }
  *ret_rank = rank;
  return TRUE;
}
