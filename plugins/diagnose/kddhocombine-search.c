/* kddhocombine: the grid, the counts, and what a search leaves for later. */
#include "kddhocombine.h"

#include <math.h>
#include <string.h>

guint
kd_dho_parse_grid (const gchar *text, gdouble *ret_beta, GError **error)
{
  g_auto (GStrv) words = g_strsplit_set (text ? text : "", " ,", -1);
  guint n = 0;

  for (guint i = 0; words[i]; i++) {
    gchar *end;
    gdouble value = g_ascii_strtod (words[i], &end);
    if (!*words[i])
      continue;
    if (*end || !(value > 0 && value <= 100) || n == MAX_BETAS) {
      g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Property not valid: element=kddhocombine, property=beta-grid, value=\"%s\", wanted=1 to %d numbers above 0 to 100",
          text, MAX_BETAS);
      return 0;
    }
    ret_beta[n++] = value;
  }
  if (n == 0)
    g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Property is empty: element=kddhocombine, property=beta-grid; give betas with commas");
  return n;
}

guint
kd_dho_count_alphas (const KdDhoCombineParams *p)
{
  return (guint) (1 / p->alpha_step + 1e-9) + 1;
}

static gboolean
read_number (KdH5Reader *reader, const gchar *name, gdouble low, gdouble high, gdouble *ret, GError **error)
{
  g_autoptr (KdTensor) tensor = kd_layout_find (kd_h5_reader_layout (reader), name) ? kd_h5_reader_read_all (reader, name, error) : NULL;

  *ret = tensor && tensor->dtype == KD_FLOAT64 && tensor->rank == 0 ? kd_tensor_get_double (tensor, 0) : NAN;
  if (*ret >= low && *ret <= high)
    return TRUE;
  g_clear_error (error);
  g_set_error (error, KD_ERROR, KD_ERROR_FORMAT, "No result of a search: path=\"%s\", dataset=%s, wanted=a float64 from %g to %g; write it with kddhocombine mode=search",
      kd_h5_reader_path (reader), name, low, high);
  return FALSE;
}

gboolean
kd_dho_read_search (const gchar *path, KdDhoCombineState *state, GError **error)
{
  g_autoptr (KdH5Reader) reader = kd_h5_reader_open (path, NULL, error);
  g_autoptr (KdTensor) ids = NULL;

  if (!reader || !read_number (reader, "best.alpha", 0, 1, &state->mix[ALPHA], error) || !read_number (reader, "best.beta", 1e-9, 100, &state->mix[BETA], error))
    return FALSE;
  if (!kd_layout_find (kd_h5_reader_layout (reader), "best.sample.id"))
    return TRUE;
  ids = kd_h5_reader_read_all (reader, "best.sample.id", error);
  if (!ids)
    return FALSE;
  state->seen = g_hash_table_new_full (g_int64_hash, g_int64_equal, g_free, NULL);
  for (gsize i = 0; ids->dtype == KD_INT64 && i < kd_tensor_n_elements (ids); i++)
    g_hash_table_add (state->seen, g_memdup2 ((const gint64 *) ids->data + i, sizeof (gint64)));
  return TRUE;
}

void
kd_dho_log_softmax (const gfloat *x, gint64 size, gdouble t, gdouble *ret)
{
  gdouble max = -INFINITY, sum = 0;

  for (gint64 j = 0; j < size; j++)
    max = MAX (max, x[j] / t);
  for (gint64 j = 0; j < size; j++)
    sum += exp (x[j] / t - max);
  for (gint64 j = 0; j < size; j++)
    ret[j] = x[j] / t - max - log (sum);
}

gint64
kd_dho_predict (const gdouble *a, const gdouble *k, gint64 size, gdouble alpha)
{
  gint64 best = 0;
  gdouble top = -1;

  for (gint64 j = 0; j < size; j++) {
    gdouble p = alpha * a[j] + (1 - alpha) * k[j];
    if (p > top) {
      top = p;
      best = j;
    }
  }
  return best;
}

void
kd_dho_exp_row (gdouble *x, gint64 size)
{
  for (gint64 j = 0; j < size; j++)
    x[j] = exp (x[j]);
}

static void
count_row (const KdCall *call, const gfloat *ce_head, const gfloat *kd_head, gint64 label, guint n_betas, const gdouble *beta, gdouble *a, gdouble *k)
{
  const KdDhoCombineParams *p = call->params;
  KdDhoCombineState *state = call->state;
  gint64 size = kd_call_size (call, 'C');
  guint n_alphas = kd_dho_count_alphas (p);

  kd_dho_log_softmax (ce_head, size, 1, a);
  kd_dho_exp_row (a, size);
  for (guint b = 0; b < n_betas; b++) {
    kd_dho_log_softmax (kd_head, size, beta[b], k);
    kd_dho_exp_row (k, size);
    for (guint i = 0; i < n_alphas; i++)
      state->correct[b][i] += kd_dho_predict (a, k, size, MIN (p->alpha_step * i, 1)) == label;
  }
}

static void
choose_best (const KdDhoCombineParams *p, KdDhoCombineState *state, guint n_betas, const gdouble *beta)
{
  guint n_alphas = kd_dho_count_alphas (p);

  state->best = 0;
  state->mix[ALPHA] = 0;
  state->mix[BETA] = 1;
  for (guint b = 0; b < n_betas; b++)
    for (guint i = 0; i < n_alphas; i++)
      if (state->correct[b][i] > state->best) {
        state->best = state->correct[b][i];
        state->mix[ALPHA] = MIN (p->alpha_step * i, 1);
        state->mix[BETA] = beta[b];
      }
}

void
kd_dho_search (const KdCall *call, gint64 n, const gfloat *ce_head, const gfloat *kd_head, const gint64 *label, gdouble *a, gdouble *k)
{
  KdDhoCombineState *state = call->state;
  gint64 size = kd_call_size (call, 'C'), per_sample = call->n_samples ? n / call->n_samples : 1;
  gdouble beta[MAX_BETAS];
  guint n_betas = kd_dho_parse_grid (((const KdDhoCombineParams *) call->params)->beta_grid, beta, NULL);

  if (state->n_rows && state->epoch != call->epoch) { /* another epoch, another student */
    memset (state->correct, 0, sizeof state->correct);
    state->n_rows = state->told = 0;
    g_array_set_size (state->ids, 0);
  }
  state->epoch = call->epoch;
  state->n_classes = size;
  for (gint64 r = 0; r < n; r++) {
    if (label[r] < 0)
      continue;
    count_row (call, ce_head + r * size, kd_head + r * size, label[r], n_betas, beta, a, k);
    state->n_rows++;
    if (call->sample_id && r % per_sample == 0)
      g_array_append_val (state->ids, call->sample_id[r / per_sample]);
  }
  choose_best (call->params, state, n_betas, beta);
}
