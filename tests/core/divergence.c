/* Divergence and cross-entropy kernels against their definitions in double: every instruction set, sizes about the block, element types,
 * extreme logits, threads. */
#include "math-table.h"
#include <dlfcn.h>

static void
check_divergence (Table *t, KdDivergence *call)
{
  gdouble temperature = call->temperature;
  g_autofree gdouble *grad = g_new (gdouble, t->size);

  memset (t->grad, 0, (gsize) (t->n * t->size) * sizeof (gfloat));
  kd_divergence_rows (call);
  ck_assert (t->value[1] == 0);
  for (gint64 r = 0; r < t->n; r++) {
    const gfloat *s = t->s + r * t->size, *p = t->t + r * t->size;
    gdouble ls = lse (s, t->size, temperature), lt = lse (p, t->size, temperature), value = 0;
    if (t->coef[r] == 0)
      continue;
    for (gint64 i = 0; i < t->size; i++) {
      gdouble lq = s[i] / temperature - ls, lp = p[i] / temperature - lt;
      value += call->kind == KD_DIVERGENCE_REVERSE_KL ? exp (lq) * (lq - lp) : exp (lp) * ((call->cross_entropy ? 0 : lp) - lq);
    }
    for (gint64 i = 0; i < t->size; i++) {
      gdouble lq = s[i] / temperature - ls, lp = p[i] / temperature - lt, c = t->coef[r] * call->scale / temperature;
      grad[i] = c * (call->kind == KD_DIVERGENCE_REVERSE_KL ? exp (lq) * (lq - lp - value) : exp (lq) - exp (lp));
    }
    assert_rows (t, r, value, grad, 3e-6, "divergence");
  }
}

GST_START_TEST (test_divergence)
{
  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
    for (gint level = 1; level <= kd_cpu_level (); level++)
      for (gint kind = 0; kind < 3; kind++) {
        g_auto (Table) t = { 0 };
        table_init (&t, 5, sizes[i], 3);
        check_divergence (&t, &(KdDivergence) { .kind = kind == 1, .n = t.n, .size = t.size, .student = t.s, .teacher = t.t, .teacher_type = KD_REAL_F32, .coef = t.coef, .temperature = kind == 2 ? 0.7 : 2, .scale = 4, .cross_entropy = kind == 2, .grad = t.grad, .value = t.value, .level = level });
      }
}
GST_END_TEST

static void
check_xent (Table *t, gboolean soft, gdouble eps, gint level)
{
  g_autofree gdouble *grad = g_new (gdouble, t->size);

  memset (t->grad, 0, (gsize) (t->n * t->size) * sizeof (gfloat));
  kd_xent_rows (&(KdXent) { .n = t->n, .size = t->size, .logits = t->s, .label = t->label, .soft = soft ? t->soft : NULL, .smoothing = eps, .coef = t->coef, .scale = 3, .grad = t->grad, .value = t->value, .level = level });
  for (gint64 r = 0; r < t->n; r++) {
    const gfloat *s = t->s + r * t->size;
    gdouble ls = lse (s, t->size, 1), value = 0, total = 0;
    if (t->coef[r] == 0)
      continue;
    for (gint pass = 0; pass < 2; pass++)
      for (gint64 i = 0; i < t->size; i++) {
        gdouble target = soft ? t->soft[r * t->size + i] : i == t->label[r];
        target = (1 - eps) * target + eps / (gdouble) t->size;
        total += pass ? 0 : target;
        value += pass ? 0 : target * (ls - s[i]);
        grad[i] = 3 * t->coef[r] * (total * exp (s[i] - ls) - target);
      }
    assert_rows (t, r, value, grad, 3e-6, "cross-entropy");
  }
}

/* A student near its teacher and a sure one: values of 1e-4 and less still have their digits. */
GST_START_TEST (test_small_values)
{
  for (guint i = 1; i < G_N_ELEMENTS (sizes); i++)
    for (gint level = 1; level <= kd_cpu_level (); level++) {
      g_auto (Table) t = { 0 };
      table_init (&t, 5, sizes[i], 3);
      for (gint64 j = 0; j < t.n * t.size; j++)
        t.s[j] = t.t[j] + 0.01f * (gfloat) sin ((gdouble) j) + 100;
      for (gint kind = 0; kind < 2; kind++)
        check_divergence (&t, &(KdDivergence) { .kind = kind, .n = t.n, .size = t.size, .student = t.s, .teacher = t.t, .teacher_type = KD_REAL_F32, .coef = t.coef, .temperature = 1, .scale = 1, .grad = t.grad, .value = t.value, .level = level });
      for (gint64 r = 0; r < t.n; r++)
        t.s[r * t.size + MAX (t.label[r], 0)] = 125;
      check_xent (&t, FALSE, 0, level);
      for (gint64 j = 0; j < t.n * t.size; j++)
        t.t[j] = t.s[j];
      check_divergence (&t, &(KdDivergence) { .n = t.n, .size = t.size, .student = t.s, .teacher = t.t, .teacher_type = KD_REAL_F32, .coef = t.coef, .temperature = 1, .scale = 1, .cross_entropy = 1, .grad = t.grad, .value = t.value, .level = level });
    }
}
GST_END_TEST

GST_START_TEST (test_teacher_types)
{
  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
    for (gint kind = 0; kind < 2; kind++) {
      g_auto (Table) t = { 0 };
      KdDivergence call = { 0 };
      table_init (&t, 4, sizes[i], 2);
      call = (KdDivergence) { .kind = kind, .n = t.n, .size = t.size, .student = t.s, .teacher = t.half, .teacher_type = KD_REAL_F16, .coef = t.coef, .temperature = 1, .scale = 1, .grad = t.grad, .value = t.value };
      check_divergence (&t, &call);
      for (gsize j = 0; j < (gsize) (t.n * t.size); j++)
        t.t[j] = kd_bfloat_to_float (t.brain[j]);
      call.teacher = t.brain;
      call.teacher_type = KD_REAL_BF16;
      check_divergence (&t, &call);
    }
}
GST_END_TEST

GST_START_TEST (test_divergence_extremes)
{
  static const gfloat s[][3] = { { 1e3f, 0, -1e3f }, { -1e30f, 1e30f, 0 }, { 5, -INFINITY, 5 }, { 0, 0, NAN }, { 0, 0, INFINITY } };
  static const gfloat p[][3] = { { 0, 1e3f, 0 }, { 1e30f, -1e30f, 0 }, { 1, -INFINITY, 1 }, { 0, 0, 0 }, { 0, 0, 0 } };
  static const gdouble fkl[] = { 1e3, 2e30, 0, NAN, NAN };
  const gdouble coef = 1;

  for (guint i = 0; i < G_N_ELEMENTS (s); i++)
    for (gint kind = 0; kind < 2; kind++) {
      gfloat grad[3] = { 0 };
      gdouble value;
      KdDivergence call = { .kind = kind, .n = 1, .size = 3, .student = s[i], .teacher = p[i], .teacher_type = KD_REAL_F32, .coef = &coef, .temperature = 1, .scale = 1, .grad = grad, .value = &value };
      kd_divergence_rows (&call);
      if (isnan (fkl[i])) {
        ck_assert (isnan (value) && grad[0] == 0 && grad[1] == 0 && grad[2] == 0);
        continue;
      }
      ck_assert (isfinite (grad[0]) && isfinite (grad[1]) && isfinite (grad[2]));
      if (i < 2 && kind == 0) { /* all of q on one id, all of p on another; 1e30 goes the exact way */
        ck_assert (fabsf (grad[i] - 1) < 1e-6f && fabsf (grad[1 - i] + 1) < 1e-6f);
      }
      if (kind == 0)
        kd_assert_close (value, fkl[i], 1e-6);
      if (i == 2) { /* the id that is -infinity in both adds nothing; rejected when asked */
        ck_assert (grad[1] == 0);
        kd_assert_close (value, 0, 1e-12);
        call.reject_infinite = 1;
        kd_divergence_rows (&call);
        ck_assert (isnan (value));
      }
    }
}
GST_END_TEST

/* The cross-entropy with a teacher that excludes an id is finite, and an infinite logit all the same. */
GST_START_TEST (test_teacher_excludes)
{
  const gfloat s[3] = { 0, 0, 0 }, p[3] = { 0, -INFINITY, 0 };
  gfloat grad[3] = { 0 };
  gdouble coef = 1, value;
  KdDivergence call = { .n = 1, .size = 3, .student = s, .teacher = p, .teacher_type = KD_REAL_F32, .coef = &coef, .temperature = 1, .scale = 1, .cross_entropy = 1, .grad = grad, .value = &value };

  kd_divergence_rows (&call);
  kd_assert_close (value, log (3), 1e-6);
  kd_assert_close (grad[1], 1.0 / 3, 1e-6);
  call.reject_infinite = 1;
  kd_divergence_rows (&call);
  ck_assert (isnan (value));
}
GST_END_TEST

GST_START_TEST (test_xent)
{
  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
    for (gint level = 1; level <= kd_cpu_level (); level++)
      for (gint kind = 0; kind < 4; kind++) {
        g_auto (Table) t = { 0 };
        table_init (&t, 5, sizes[i], 3);
        check_xent (&t, kind & 1, kind & 2 ? 0.1 : 0, level);
      }
}
GST_END_TEST

GST_START_TEST (test_xent_extremes)
{
  const gfloat s[3] = { 1e30f, -INFINITY, 0 }, even[3] = { 0.5f, 0, 0.5f }, bad[3] = { 0.5f, 0.6f, 0 }, minus[3] = { 1.5f, -0.5f, 0 };
  gfloat grad[3] = { 0 };
  gdouble coef = 1, value;
  gint64 label = 0;
  KdXent call = { .n = 1, .size = 3, .logits = s, .label = &label, .coef = &coef, .scale = 1, .grad = grad, .value = &value };

  kd_xent_rows (&call);
  ck_assert (value == 0 && grad[0] == 0 && grad[1] == 0);
  label = 1; /* a class that the model excludes */
  kd_xent_rows (&call);
  ck_assert (isinf (value));
  call.soft = even;
  kd_xent_rows (&call);
  kd_assert_close (value, 0.5e30, 1e-6);
  ck_assert_int_eq (kd_xent_find_bad_soft (1, 3, even, &coef), -1);
  ck_assert_int_eq (kd_xent_find_bad_soft (1, 3, bad, &coef), 0);
  ck_assert_int_eq (kd_xent_find_bad_soft (1, 3, minus, &coef), 0);
  coef = 0;
  ck_assert_int_eq (kd_xent_find_bad_soft (1, 3, bad, &coef), -1);
}
GST_END_TEST

GST_START_TEST (test_threads_give_the_same_bits)
{
  g_auto (Table) t = { 0 };
  g_autofree gfloat *first = NULL;
  void (*set_threads) (int) = (void (*) (int)) dlsym (RTLD_DEFAULT, "omp_set_num_threads"); /* the library's own OpenMP */
  gdouble sum[2];

  ck_assert (set_threads != NULL);
  table_init (&t, 60, 3000, 3);
  for (gint threads = 1; threads <= 2; threads++) {
    set_threads (threads == 1 ? 1 : 3);
    memset (t.grad, 0, 60 * 3000 * sizeof (gfloat));
    kd_divergence_rows (&(KdDivergence) { .n = t.n, .size = t.size, .student = t.s, .teacher = t.t, .teacher_type = KD_REAL_F32, .coef = t.coef, .temperature = 1, .scale = 1, .grad = t.grad, .value = t.value });
    sum[threads - 1] = kd_rows_sum (t.n, t.coef, t.value);
    if (threads == 1)
      first = g_memdup2 (t.grad, 60 * 3000 * sizeof (gfloat));
  }
  ck_assert (memcmp (first, t.grad, 60 * 3000 * sizeof (gfloat)) == 0);
  ck_assert (sum[0] == sum[1]);
}
GST_END_TEST

GST_START_TEST (test_gradient_is_added)
{
  const gfloat s[2] = { 0, 0 }, p[2] = { 0, 0 };
  gfloat grad[2] = { 7, -3 };
  gdouble coef = 1, value;

  kd_divergence_rows (&(KdDivergence) { .n = 1, .size = 2, .student = s, .teacher = p, .teacher_type = KD_REAL_F32, .coef = &coef, .temperature = 1, .scale = 1, .grad = grad, .value = &value });
  ck_assert (grad[0] == 7 && grad[1] == -3 && value == 0);
  kd_divergence_rows (&(KdDivergence) { .n = 0, .size = 2, .student = s, .teacher = p, .teacher_type = KD_REAL_F32, .temperature = 1 });
}
GST_END_TEST

static Suite *
divergence_suite (void)
{
  Suite *s = suite_create ("divergence");
  TCase *t = tcase_create ("all");

  suite_add_tcase (s, t);
  tcase_add_test (t, test_divergence);
  tcase_add_test (t, test_small_values);
  tcase_add_test (t, test_teacher_types);
  tcase_add_test (t, test_divergence_extremes);
  tcase_add_test (t, test_teacher_excludes);
  tcase_add_test (t, test_xent);
  tcase_add_test (t, test_xent_extremes);
  tcase_add_test (t, test_threads_give_the_same_bits);
  tcase_add_test (t, test_gradient_is_added);
  return s;
}

GST_CHECK_MAIN (divergence)
