/* kddhocombine's own two files share this: the element, and the search for the best pair. */
#pragma once
#include <kd/kd.h>

#define MAX_BETAS 32
#define MAX_ALPHAS 101

enum { FIXED,
  SEARCH };

typedef struct {
  gint mode;
  gdouble alpha, beta, alpha_step;
  gchar *beta_grid, *location, *ce_field, *kd_field;
  gboolean allow_same_rows;
} KdDhoCombineParams;

enum { ALPHA,
  BETA };
typedef struct {
  gint64 correct[MAX_BETAS][MAX_ALPHAS];
  gint64 n_rows, n_classes;
  gint64 epoch; /* of the rows that are counted */
  gint64 told;  /* rows when the message was posted */
  gint64 best;
  gdouble mix[2];   /* alpha and beta in force: given, read, or the best so far */
  GArray *ids;      /* search: of the labelled samples */
  GHashTable *seen; /* fixed: ids of the search */
} KdDhoCombineState;

/* The betas of the grid; how many, 0 with @error when it is not one. */
guint kd_dho_parse_grid (const gchar *text, gdouble *ret_beta, GError **error);
guint kd_dho_count_alphas (const KdDhoCombineParams *p);
/* What a search has written: the pair and the ids it has seen. */
gboolean kd_dho_read_search (const gchar *path, KdDhoCombineState *state, GError **error);

/* log softmax (x / t) of one row of finite numbers, in double. */
void kd_dho_log_softmax (const gfloat *x, gint64 size, gdouble t, gdouble *ret);
void kd_dho_exp_row (gdouble *x, gint64 size);
/* Class of the first largest entry of the mixture of two rows of probabilities. */
gint64 kd_dho_predict (const gdouble *a, const gdouble *k, gint64 size, gdouble alpha);

/* Counts the labelled ones of @n rows of two tables of logits, and chooses the best pair so far. @a, @k: room for a row. */
void kd_dho_search (const KdCall *call, gint64 n, const gfloat *ce_head, const gfloat *kd_head, const gint64 *label, gdouble *a, gdouble *k);
