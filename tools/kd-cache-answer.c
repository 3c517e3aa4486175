/* What a teacher says of one row: its first choice, how sure it is, and what it gives the label. */
#include "kd-cache-stats.h"

#include <math.h>

/* Log-probabilities of the classes @ids [k]; what they leave is the tail. */
KdStatsAnswer
kd_stats_answer_cut (const KdTensor *logs, gint64 row, gint64 k, const gint64 *ids, gint64 label)
{
  KdStatsAnswer answer = { -1, 0, 0, -INFINITY };
  gdouble tail = 1;

  for (gint64 c = 0; c < k; c++) {
    gdouble lp = kd_tensor_get_double (logs, (gsize) (row * k + c)), p = exp (lp);
    if (ids[row * k + c] < 0)
      continue;
    tail -= p;
    answer.entropy -= p > 0 ? p * lp : 0;
    if (ids[row * k + c] == label)
      answer.label_log_prob = lp;
    if (answer.best < 0 || p > answer.confidence) {
      answer.confidence = p;
      answer.best = ids[row * k + c];
    }
  }
  /* The tail as one class: the least entropy it can have. */
  if (tail > 1e-6)
    answer.entropy -= tail * log (tail);
  return answer;
}

void
kd_stats_rows_clear (KdStatsRows *rows)
{
  g_free (rows->lse);
  g_free (rows->most);
  g_free (rows->entropy);
  g_free (rows->best);
}
void
kd_stats_rows_fill (KdStatsRows *rows, const KdTensor *logits, gint64 n, gint64 k)
{
  rows->lse = g_new0 (gdouble, MAX (n, 1));
  rows->most = g_new0 (gdouble, MAX (n, 1));
  rows->entropy = g_new0 (gdouble, MAX (n, 1));
  rows->best = g_new0 (gint64, MAX (n, 1));
  kd_softmax_rows (&(KdSoftmax) { .n = n, .size = k, .logits = logits->data, .type = (KdReal) logits->dtype, .temperature = 1, .lse = rows->lse, .max = rows->most, .entropy = rows->entropy, .argmax = rows->best });
}

KdStatsAnswer
kd_stats_answer_row (const KdStatsRows *rows, const KdTensor *logits, gint64 row, gint64 k, gint64 label)
{
  KdStatsAnswer answer = { rows->best[row], rows->most[row], rows->entropy[row], -INFINITY };

  if (!isfinite (rows->lse[row]))
    answer.best = -1;
  if (label >= 0 && label < k)
    answer.label_log_prob = kd_tensor_get_double (logits, (gsize) (row * k + label)) - rows->lse[row];
  return answer;
}
