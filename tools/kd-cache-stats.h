/* kd cache stats: what it counts (kd-cache-stats.c) and how that looks (kd-cache-page.c). */
#pragma once
#include "kd-cache-work.h"

G_BEGIN_DECLS

#define KD_STATS_BINS 40
#define KD_STATS_CALIBRATION_BINS 15

/** KdStatsTeacher: one cache. @confidence, @entropy: rows a bin, over [0, 1] and [0, ln classes]; @bin_*: rows, summed confidence and right answers. */
typedef struct {
  gchar *path, *identity, *encoding, *field;
  KdCacheReader *reader;
  gint64 n_rows, n_counted, n_classes;
  gdouble confidence[KD_STATS_BINS], entropy[KD_STATS_BINS];
  gdouble confidence_sum, entropy_sum;
  gint64 n_labels, n_right, n_nll; /* n_nll: of them those whose label is among the classes kept */
  gdouble nll_sum;
  gdouble bin_rows[KD_STATS_CALIBRATION_BINS], bin_confidence[KD_STATS_CALIBRATION_BINS], bin_right[KD_STATS_CALIBRATION_BINS];
  GHashTable *views; /* view -> rows */
} KdStatsTeacher;

/** KdStats: @agree [n][n]: how often two teachers have the same first choice; @common: over how many rows. */
typedef struct {
  KdStatsTeacher *teachers;
  guint n;
  gdouble *agree;
  gint64 *common;
  gboolean has_labels;
} KdStats;

/** KdStatsAnswer: one row's; @best -1 where it has none (NaN). */
typedef struct {
  gint64 best;
  gdouble confidence, entropy, label_log_prob;
} KdStatsAnswer;
/** KdStatsRows: softmax's numbers of rows of logits. */
typedef struct {
  gdouble *lse, *most, *entropy;
  gint64 *best;
} KdStatsRows;
void kd_stats_rows_fill (KdStatsRows *rows, const KdTensor *logits, gint64 n, gint64 k);
void kd_stats_rows_clear (KdStatsRows *rows);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (KdStatsRows, kd_stats_rows_clear)
KdStatsAnswer kd_stats_answer_row (const KdStatsRows *rows, const KdTensor *logits, gint64 row, gint64 k, gint64 label);
/** kd_stats_answer_cut: from log-probabilities of the classes @ids [rows k]; what they leave is the tail. */
KdStatsAnswer kd_stats_answer_cut (const KdTensor *logs, gint64 row, gint64 k, const gint64 *ids, gint64 label);

/** kd_stats_page: (transfer full) the page. */
gchar *kd_stats_page (const KdStats *stats);
/** kd_stats_ece: expected calibration error: the mean gap between confidence and accuracy, weighted by rows. */
gdouble kd_stats_ece (const KdStatsTeacher *teacher);

G_END_DECLS
