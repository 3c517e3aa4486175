/* The loops over a block: exponentials and logarithms against libm, sums against double, every length that leaves a rest, every instruction set
 * of this machine; and what they say of numbers that they cannot take. */
#include "kd-leaf.h"

/* not exported */
#pragma GCC diagnostic ignored "-Wunknown-pragmas"
#include "math/kd-block.c"

#define LENGTH 67

static gint
last_level (void)
{
  return MAX (kd_cpu_level (), 1);
}

GST_START_TEST (test_exponentials)
{
  for (gint level = 1; level <= last_level (); level++)
    for (gdouble y = -126; y < 127; y += 0.01371) {
      gfloat x = (gfloat) y, e;
      gfloat z = kd_block_loops[level].exps (&x, &x, 1, 0.0f, 1.0f, &e);
      ck_assert_msg (fabs (e / exp2 (x) - 1) <= 2e-7, "level %d: 2^%.9g is %.9g", level, x, e);
      ck_assert (x <= KD_BLOCK_TOP ? z == e : z > exp2f (KD_BLOCK_TOP));
    }
}
GST_END_TEST

GST_START_TEST (test_exponentials_at_the_ends)
{
  static const gfloat low[] = { -150.0f, -1e4f, -1e30f };

  for (gint level = 1; level <= last_level (); level++) {
    const KdBlockLoops *loops = &kd_block_loops[level];
    gfloat e, one = 0.0f;
    const gfloat nan[] = { NAN, -NAN };
    for (guint i = 0; i < G_N_ELEMENTS (low); i++) {
      loops->exps (&low[i], &low[i], 1, 0.0f, 1.0f, &e);
      ck_assert_msg (e == 0.0f, "level %d: 2^%g is %g", level, low[i], e);
    }
    for (guint i = 0; i < G_N_ELEMENTS (nan); i++)
      ck_assert (isnan (loops->exps (&nan[i], &nan[i], 1, 0.0f, 1.0f, &e)));
    loops->exps (&one, &one, 1, 0.0f, 1.0f, &e);
    ck_assert (e == 1.0f);
  }
}
GST_END_TEST

/* -log2 x by way of Jensen-Shannon's h, with nothing of the teacher in the mixture. */
static gfloat
logarithm (gint level, gfloat x)
{
  gfloat zero = 0.0f, h = 0.0f;

  kd_block_loops[level].shannon (&(KdShannonBlock) { .s = &zero, .s_ahead = &zero, .t_ahead = (const char *) &zero, .e_s = &x, .e_t_to_h = &h, .n = 1, .ref = 0.0f, .k = 1.0f, .w_s = 1.0f, .w_t = 1.0f });
  return -h;
}

GST_START_TEST (test_logarithms)
{
  for (gint level = 1; level <= last_level (); level++) {
    for (gdouble y = -125; y < 20; y += 0.00913) {
      gfloat x = (gfloat) exp2 (y);
      gdouble want = log2 (x), got = logarithm (level, x), allowed = 1.5e-7 + 0x1p-23 * fabs (want);
      ck_assert_msg (fabs (got - want) <= allowed, "level %d: log2 %.9g is %.9g, not %.9g", level, x, got, want);
    }
    for (gint power = -126; power < 20; power++)
      ck_assert_msg (logarithm (level, ldexpf (1.0f, power)) == power, "level %d: log2 of 2^%d", level, power);
    ck_assert (isfinite (logarithm (level, 0.0f)));
  }
}
GST_END_TEST

typedef struct {
  gfloat s[LENGTH], t[LENGTH], keep_s[LENGTH + 1], keep_t[LENGTH + 1];
} Rows;

static void
rows_init (Rows *rows)
{
  KdRandom random;

  kd_random_init (&random, 5, 1, 0, 0);
  for (gint i = 0; i < LENGTH; i++) {
    rows->s[i] = (gfloat) (8 * kd_random_normal (&random));
    rows->t[i] = (gfloat) (8 * kd_random_normal (&random));
  }
}

/* What a kind's sum adds for one place. */
static gdouble
term_of (KdCross kind, gdouble y_s, gdouble y_t, gdouble d_s, gdouble d_t)
{
  switch (kind) {
  case KD_CROSS_FORWARD:
    return -exp2 (y_t) * (y_s - y_t);
  case KD_CROSS_STUDENT:
    return -exp2 (y_t) * d_s;
  case KD_CROSS_REVERSE:
    return exp2 (y_s) * (y_s - y_t);
  case KD_CROSS_ENTROPY:
    return -exp2 (y_t) * d_t;
  default:
    return 0;
  }
}

static void
check_pair (gint level, Rows *rows, gint n, KdCross kind, gint floored, gfloat ref_s, gfloat k)
{
  KdPairBlock block = { rows->s, rows->t, rows->s, rows->t, n, ref_s, -1.5f, k, rows->keep_s, rows->keep_t };
  gdouble z_s = 0, z_t = 0, cross = 0, size = 0, top = -INFINITY;
  KdPairSums sums;

  rows->keep_s[n] = rows->keep_t[n] = 77.0f;
  sums = kd_block_loops[level].pair[kind][floored](&block);
  for (gint i = 0; i < n; i++)
    top = MAX (top, MAX ((rows->s[i] - ref_s) * k, (rows->t[i] + 1.5) * k));
  if (top > KD_BLOCK_TOP) {
    ck_assert_msg (!(sums.z_s <= exp2f (KD_BLOCK_TOP) && sums.z_t <= exp2f (KD_BLOCK_TOP)), "level %d, kind %d, n %d: 2^%g is not seen", level, kind, n, top);
    return;
  }
  for (gint i = 0; i < n; i++) {
    gdouble d_s = (rows->s[i] - ref_s) * k, d_t = (rows->t[i] + 1.5) * k, y_s = floored ? MAX (d_s, KD_LOWEST) : d_s, y_t = floored ? MAX (d_t, KD_LOWEST) : d_t;
    gdouble kept = kind == KD_CROSS_REVERSE ? y_s - y_t : exp2 (y_t), term = term_of (kind, y_s, y_t, d_s, d_t);
    z_s += exp2 (y_s);
    z_t += exp2 (y_t);
    cross += term;
    size += fabs (term);
    ck_assert_msg (fabs (rows->keep_s[i] - exp2 (y_s)) <= 2e-5 * exp2 (y_s) + 1e-37, "level %d, kind %d, place %d of %d: e_s %g", level, kind, i, n, rows->keep_s[i]);
    ck_assert_msg (fabs (rows->keep_t[i] - kept) <= 2e-5 * fabs (kept) + 1e-5 * (kind == KD_CROSS_REVERSE) + 1e-37, "level %d, kind %d, place %d of %d: kept %g, not %g",
        level, kind, i, n, rows->keep_t[i], kept);
  }
  ck_assert (rows->keep_s[n] == 77.0f && rows->keep_t[n] == 77.0f); /* nothing beyond the block */
  ck_assert_msg (fabs (sums.z_s / z_s - 1) < 1e-5 && fabs (sums.z_t / z_t - 1) < 1e-5, "level %d, kind %d, n %d: z %g %g, not %g %g", level, kind, n, sums.z_s, sums.z_t, z_s, z_t);
  ck_assert_msg (fabs (sums.cross - cross) <= 1e-5 * size, "level %d, kind %d, n %d: cross %g, not %g", level, kind, n, sums.cross, cross);
}

GST_START_TEST (test_pairs)
{
  Rows rows;

  rows_init (&rows);
  for (gint level = 1; level <= last_level (); level++)
    for (gint kind = KD_CROSS_NONE; kind <= KD_CROSS_ENTROPY; kind++)
      for (gint floored = 0; floored < 2; floored++)
        for (gint n = 1; kd_block_loops[level].pair[kind][floored] && n <= LENGTH; n++) {
          check_pair (level, &rows, n, kind, floored, 2.5f, 1.442695f);
          check_pair (level, &rows, n, kind, floored, 20.0f, 0.5f);
          check_pair (level, &rows, n, kind, floored, 2.5f, 0.1f);
          check_pair (level, &rows, n, kind, floored, -300.0f, 1.442695f);
        }
}
GST_END_TEST

/* A place that is no number, or beyond, at the beginning, in the middle and in the rest. */
GST_START_TEST (test_pairs_say_what_is_infinite)
{
  static const gfloat bad[] = { NAN, -NAN, INFINITY, -INFINITY };

  for (gint level = 1; level <= last_level (); level++)
    for (gint kind = KD_CROSS_NONE; kind <= KD_CROSS_ENTROPY; kind++)
      for (gint floored = 0; floored < 2; floored++)
        for (gint at = 0; kd_block_loops[level].pair[kind][floored] && at < LENGTH; at += 33)
          for (guint b = 0; b < 2 * G_N_ELEMENTS (bad); b++) {
            Rows rows;
            KdPairSums sums;
            rows_init (&rows);
            (b % 2 ? rows.t : rows.s)[at] = bad[b / 2];
            sums = kd_block_loops[level].pair[kind][floored](&(KdPairBlock) { rows.s, rows.t, rows.s, rows.t, LENGTH, 0.0f, 0.0f, 1.0f, rows.keep_s, rows.keep_t });
            ck_assert_msg (!isfinite (sums.z_s) || !isfinite (sums.cross), "level %d, kind %d, floored %d: %g of the %s at %d is not seen", level, kind, floored, bad[b / 2], b % 2 ? "teacher" : "student", at);
          }
}
GST_END_TEST

GST_START_TEST (test_shannon)
{
  for (gint level = 1; level <= last_level (); level++)
    for (gint n = 1; n <= LENGTH; n++) {
      Rows rows;
      gdouble of_s = 0, of_t = 0;
      gfloat e_t[LENGTH];
      KdShannonSums sums;
      rows_init (&rows);
      for (gint i = 0; i < n; i++) {
        gdouble h;
        rows.keep_s[i] = (gfloat) exp2 (rows.s[i]);
        rows.keep_t[i] = e_t[i] = (gfloat) exp2 (rows.t[i]);
        h = rows.s[i] - log2 (0.3 * rows.keep_s[i] + 0.6 * e_t[i]);
        of_s += rows.keep_s[i] * h;
        of_t += e_t[i] * h;
      }
      rows.keep_t[n] = 77.0f;
      sums = kd_block_loops[level].shannon (&(KdShannonBlock) { .s = rows.s, .s_ahead = rows.s, .t_ahead = (const char *) rows.t, .e_s = rows.keep_s, .e_t_to_h = rows.keep_t, .n = n, .ref = 0.0f, .k = 1.0f, .w_s = 0.3f, .w_t = 0.6f });
      ck_assert (rows.keep_t[n] == 77.0f);
      ck_assert_msg (fabs (sums.of_s - of_s) <= 1e-5 * fabs (of_s) + 1e-5, "level %d, n %d: %g, not %g", level, n, sums.of_s, of_s);
      ck_assert_msg (fabs (sums.of_t - of_t) <= 1e-5 * fabs (of_t) + 1e-5, "level %d, n %d: %g, not %g", level, n, sums.of_t, of_t);
      for (gint i = 0; i < n; i++)
        ck_assert (fabs (rows.keep_t[i] - (rows.s[i] - log2 (0.3 * rows.keep_s[i] + 0.6 * e_t[i]))) < 1e-5);
    }
}
GST_END_TEST

KD_TESTS (block, test_exponentials, test_exponentials_at_the_ends, test_logarithms, test_pairs, test_pairs_say_what_is_infinite, test_shannon)
