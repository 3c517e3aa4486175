/* Philox against the authors' known answers; the distributions against their moments; the permutation against its definition. */
#include "kd-check.h"

GST_START_TEST (test_philox_known_answers)
{
  /* Random123 1.09, tests/kat_vectors, philox4x32 10 */
  static const struct {
    guint32 ctr[4], key[2], out[4];
  } answers[] = {
    { { 0, 0, 0, 0 }, { 0, 0 }, { 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 } },
    { { 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff }, { 0xffffffff, 0xffffffff }, { 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd } },
    { { 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344 }, { 0xa4093822, 0x299f31d0 }, { 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1 } },
  };

  for (guint i = 0; i < G_N_ELEMENTS (answers); i++) {
    guint32 ctr[4];
    memcpy (ctr, answers[i].ctr, sizeof ctr);
    kd_philox (ctr, answers[i].key);
    for (guint j = 0; j < 4; j++)
      ck_assert_uint_eq (ctr[j], answers[i].out[j]);
  }
}
GST_END_TEST

GST_START_TEST (test_streams_are_apart)
{
  guint64 first[5];
  KdRandom random, copy;

  for (guint i = 0; i < 5; i++) { /* each coordinate of the stream alone makes another one */
    kd_random_init (&random, 7 + (i == 1), 3 + (i == 2), 2 + (i == 3), 11 + (i == 4));
    first[i] = (guint64) kd_random_u32 (&random) << 32;
    first[i] |= kd_random_u32 (&random);
    for (guint j = 0; j < i; j++)
      ck_assert_uint_ne (first[i], first[j]);
  }
  kd_random_init (&random, 7, 3, 2, 11);
  kd_random_u32 (&random);
  copy = random;
  for (guint i = 0; i < 100; i++)
    ck_assert_uint_eq (kd_random_u32 (&random), kd_random_u32 (&copy));
  kd_random_init (&random, 7, 3, 2, 11);
  kd_random_init (&copy, 7, 3, 2, 11 | (guint64) 1 << 40); /* the high half of the id counts */
  ck_assert_uint_ne (kd_random_u32 (&random), kd_random_u32 (&copy));
  ck_assert_uint_eq (kd_random_purpose (""), 2166136261u);
  ck_assert_uint_eq (kd_random_purpose ("a"), 0xe40c292cu); /* FNV-1a's own test value */
  ck_assert_uint_ne (kd_random_purpose ("kdcrop"), kd_random_purpose ("kdnoise"));
}
GST_END_TEST

#define N 200000

typedef gdouble (*Draw) (KdRandom *random, gdouble a, gdouble b);

static gdouble
draw_uniform (KdRandom *random, gdouble a, gdouble b)
{
  gdouble x = kd_random_uniform (random);

  ck_assert (x >= 0 && x < 1);
  return x;
}
static gdouble
draw_normal (KdRandom *random, gdouble a, gdouble b)
{
  return kd_random_normal (random);
}
static gdouble
draw_gamma (KdRandom *random, gdouble a, gdouble b)
{
  return kd_random_gamma (random, a);
}

GST_START_TEST (test_moments)
{
  static const struct {
    Draw draw;
    gdouble a, b, mean, variance;
  } cases[] = {
    { draw_uniform, 0, 0, 0.5, 1.0 / 12 },
    { draw_normal, 0, 0, 0, 1 },
    { draw_gamma, 0.3, 0, 0.3, 0.3 },
    { draw_gamma, 4, 0, 4, 4 },
    { kd_random_beta, 1, 1, 0.5, 1.0 / 12 },
    { kd_random_beta, 0.2, 0.2, 0.5, 0.25 / 1.4 },
    { kd_random_beta, 2, 3, 0.4, 0.04 },
  };

  for (guint i = 0; i < G_N_ELEMENTS (cases); i++) {
    gdouble sum = 0, squares = 0, error = sqrt (cases[i].variance / N);
    KdRandom random;
    kd_random_init (&random, 1, i, 0, 0);
    for (guint j = 0; j < N; j++) {
      gdouble x = cases[i].draw (&random, cases[i].a, cases[i].b);
      sum += x;
      squares += (x - cases[i].mean) * (x - cases[i].mean);
    }
    ck_assert_msg (fabs (sum / N - cases[i].mean) < 5 * error, "case %u: mean %g", i, sum / N);
    ck_assert_msg (fabs (squares / N / cases[i].variance - 1) < 0.03, "case %u: variance %g", i, squares / N);
  }
}
GST_END_TEST

GST_START_TEST (test_below)
{
  guint count[7] = { 0 };
  KdRandom random;

  kd_random_init (&random, 5, 0, 0, 0);
  for (guint i = 0; i < 70000; i++)
    count[kd_random_below (&random, 7)]++;
  for (guint i = 0; i < 7; i++)
    ck_assert (count[i] > 9500 && count[i] < 10500);
  ck_assert_uint_eq (kd_random_below (&random, 1), 0);
  for (guint i = 0; i < 100; i++)
    ck_assert (kd_random_below (&random, ((guint64) 1 << 63) + 1) <= (guint64) 1 << 63);
}
GST_END_TEST

GST_START_TEST (test_beta_extremes)
{
  KdRandom random;
  guint ends = 0;

  kd_random_init (&random, 9, 0, 0, 0);
  for (guint i = 0; i < 1000; i++) {
    gdouble x = kd_random_beta (&random, 1e-3, 1e-3); /* both gammas may underflow */
    ck_assert (x >= 0 && x <= 1);
    ends += x < 1e-6 || x > 1 - 1e-6;
  }
  ck_assert_uint_gt (ends, 950);
}
GST_END_TEST

GST_START_TEST (test_permutation)
{
  static const guint64 sizes[] = { 1, 2, 3, 4, 5, 16, 17, 1000, 1797, 65536, 65537 };

  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++) {
    g_autofree guint8 *seen = g_malloc0 (sizes[i]);
    KdPermutation permutation, other;
    guint64 fixed = 0, same = 0;
    kd_permutation_init (&permutation, sizes[i], 3, 1);
    kd_permutation_init (&other, sizes[i], 3, 2);
    for (guint64 j = 0; j < sizes[i]; j++) {
      guint64 k = kd_permutation_at (&permutation, j);
      ck_assert_uint_lt (k, sizes[i]);
      ck_assert_uint_eq (seen[k], 0);
      seen[k] = 1;
      fixed += k == j;
      same += k == kd_permutation_at (&other, j);
    }
    if (sizes[i] >= 1000) { /* about one fixed point, and another order each epoch */
      ck_assert_uint_lt (fixed, 12);
      ck_assert_uint_lt (same, 12);
    }
  }
}
GST_END_TEST

GST_START_TEST (test_permutation_of_many)
{
  KdPermutation permutation;

  kd_permutation_init (&permutation, (guint64) 1 << 50, 3, 0);
  for (guint64 i = 0; i < 1000; i++)
    ck_assert_uint_lt (kd_permutation_at (&permutation, i), (guint64) 1 << 50);
  ck_assert_uint_ne (kd_permutation_at (&permutation, 0), kd_permutation_at (&permutation, 1));
}
GST_END_TEST

static Suite *
random_suite (void)
{
  Suite *s = suite_create ("random");
  TCase *t = tcase_create ("all");

  suite_add_tcase (s, t);
  tcase_add_test (t, test_philox_known_answers);
  tcase_add_test (t, test_streams_are_apart);
  tcase_add_test (t, test_moments);
  tcase_add_test (t, test_below);
  tcase_add_test (t, test_beta_extremes);
  tcase_add_test (t, test_permutation);
  tcase_add_test (t, test_permutation_of_many);
  return s;
}

GST_CHECK_MAIN (random)
