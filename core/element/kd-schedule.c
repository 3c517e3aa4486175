#include "kd-schedule.h"

#include <math.h>
#include <string.h>

typedef enum { SHAPE_LINEAR,
  SHAPE_COSINE,
  SHAPE_FIELD } Shape;

typedef struct {
  const KdParam *param;
  gboolean in_base;
  Shape shape;
  gdouble from, to, n_batches, start;
  gchar *field;
  gdouble now;
} Row;

struct _KdSchedule {
  gchar *owner;
  GArray *rows;
  guint64 index; /* of the last training batch */
};

static void
row_clear (gpointer data)
{
  g_free (((Row *) data)->field);
}

static gboolean
refuse (const gchar *owner, const gchar *text, const gchar *reason, GError **error)
{
  g_set_error (error, KD_ERROR, KD_ERROR_FORMAT, "Schedule not understood: element=%s, schedule=\"%s\", %s; wanted=NAME linear|cosine FROM TO BATCHES [START], or NAME field FIELD", owner,
      text, reason);
  return FALSE;
}

static gboolean
check_range (const Row *row, const gchar *owner, gdouble value, const gchar *from, GError **error)
{
  g_autofree gchar *name = NULL;

  if (value >= row->param->min && value <= row->param->max)
    return TRUE;
  name = kd_param_name (row->param);
  g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Value out of range: element=%s, %s=%g (from %s), range=%g..%g", owner, name, value, from,
      row->param->min, row->param->max);
  return FALSE;
}

static gboolean
parse_number (const gchar *word, gdouble *ret)
{
  gchar *end;

  *ret = g_ascii_strtod (word, &end);
  return end != word && !*end && isfinite (*ret);
}

/* @words: those after the parameter's name. */
static gboolean
parse_shape (Row *row, gchar **words, const gchar *owner, const gchar *text, GError **error)
{
  guint n = g_strv_length (words);

  if (n == 2 && g_str_equal (words[0], "field")) {
    row->shape = SHAPE_FIELD;
    row->field = g_strdup (words[1]);
    return TRUE;
  }
  if (n < 4 || n > 5 || !(g_str_equal (words[0], "linear") || g_str_equal (words[0], "cosine")))
    return refuse (owner, text, "its shape is not known or numbers are missing", error);
  row->shape = g_str_equal (words[0], "linear") ? SHAPE_LINEAR : SHAPE_COSINE;
  if (!parse_number (words[1], &row->from) || !parse_number (words[2], &row->to) || !parse_number (words[3], &row->n_batches) ||
      (words[4] && !parse_number (words[4], &row->start)) || row->n_batches < 1 || row->start < 0)
    return refuse (owner, text, "FROM and TO are numbers, BATCHES is at least 1, START at least 0", error);
  return check_range (row, owner, row->from, "schedule", error) && check_range (row, owner, row->to, "schedule", error);
}

static GPtrArray *
split_words (const gchar *text)
{
  g_auto (GStrv) parts = g_strsplit_set (text, " \t\n", -1);
  GPtrArray *words = g_ptr_array_new_with_free_func (g_free);

  for (guint i = 0; parts[i]; i++)
    if (*parts[i])
      g_ptr_array_add (words, g_strdup (parts[i]));
  g_ptr_array_add (words, NULL);
  return words;
}

static gboolean
add_row (KdSchedule *schedule, const gchar *text, const KdParam *leaf, const KdParam *base, GError **error)
{
  g_autoptr (GPtrArray) words = split_words (text);
  const gchar *name = g_ptr_array_index (words, 0);
  Row row = { 0 };

  if (!name)
    return TRUE; /* a ';' at the end */
  row.param = kd_param_find (leaf, name);
  if (!row.param) {
    row.param = kd_param_find (base, name);
    row.in_base = TRUE;
  }
  if (!row.param || row.param->type != KD_PARAM_TYPE_DOUBLE)
    return refuse (schedule->owner, text, row.param ? "its parameter is not a real number" : "no such parameter", error);
  for (guint i = 0; i < schedule->rows->len; i++)
    if (g_array_index (schedule->rows, Row, i).param == row.param)
      return refuse (schedule->owner, text, "its parameter has a schedule already", error);
  if (!parse_shape (&row, (gchar **) words->pdata + 1, schedule->owner, text, error)) {
    row_clear (&row);
    return FALSE;
  }
  g_array_append_val (schedule->rows, row);
  return TRUE;
}

KdSchedule *
kd_schedule_new (const gchar *text, const KdParam *leaf, const KdParam *base, const gchar *owner, GError **error)
{
  g_autoptr (KdSchedule) schedule = g_new0 (KdSchedule, 1);
  g_auto (GStrv) rows = g_strsplit (text, ";", -1);

  schedule->owner = g_strdup (owner);
  schedule->rows = g_array_new (FALSE, FALSE, sizeof (Row));
  g_array_set_clear_func (schedule->rows, row_clear);
  for (guint i = 0; rows[i]; i++)
    if (!add_row (schedule, rows[i], leaf, base, error))
      return NULL;
  return g_steal_pointer (&schedule);
}

void
kd_schedule_free (KdSchedule *schedule)
{
  if (!schedule)
    return;
  g_array_unref (schedule->rows);
  g_free (schedule->owner);
  g_free (schedule);
}

static gdouble
value_at (const Row *row, guint64 index)
{
  gdouble x = CLAMP (((gdouble) index - row->start) / row->n_batches, 0, 1);

  return row->shape == SHAPE_LINEAR ? row->from + (row->to - row->from) * x : row->to + (row->from - row->to) * 0.5 * (1 + cos (G_PI * x));
}

static gboolean
value_of_field (const Row *row, KdBatch *batch, const gchar *owner, gdouble *ret, GError **error)
{
  KdTensor *tensor = kd_batch_read (batch, row->field);

  if (!tensor || kd_tensor_n_elements (tensor) != 1 || !(tensor->dtype & KD_ANY_NUMBER)) {
    g_set_error (error, KD_ERROR, KD_ERROR_FIELD, "Field missing or no single number: element=%s, field=%s (from its schedule); put the element that writes it before",
        owner, row->field);
    return FALSE;
  }
  *ret = kd_tensor_get_double (tensor, 0);
  return check_range (row, owner, *ret, row->field, error);
}

gboolean
kd_schedule_apply (KdSchedule *schedule, KdBatch *batch, gpointer leaf_block, gpointer base_block, GError **error)
{
  if (!(batch->flags & KD_BATCH_VALIDATION))
    schedule->index = batch->index;
  for (guint i = 0; i < schedule->rows->len; i++) {
    Row *row = &g_array_index (schedule->rows, Row, i);
    if (row->shape != SHAPE_FIELD)
      row->now = value_at (row, schedule->index);
    else if (!value_of_field (row, batch, schedule->owner, &row->now, error))
      return FALSE;
    G_STRUCT_MEMBER (gdouble, row->in_base ? base_block : leaf_block, row->param->offset) = row->now;
  }
  return TRUE;
}

void
kd_schedule_report (const KdSchedule *schedule, const gchar *name, KdBatch *batch)
{
  for (guint i = 0; i < schedule->rows->len; i++) {
    const Row *row = &g_array_index (schedule->rows, Row, i);
    g_autofree gchar *param = kd_param_name (row->param), *field = g_strdup_printf ("metric.%s.%s", name, param);
    kd_batch_set (batch, field, kd_tensor_new_scalar (row->now));
  }
}
