/* The divergences beside forward and reverse KL against their definitions in double: every instruction set, sizes about the block, element
 * types, near and extreme logits. */
#include "math-table.h"

#define BETA 0.3
#define ALPHA 0.1
#define LAMBDA 0.7
#define MU 0.5

static const gchar *const names[] = { "fkl", "rkl", "jsd", "skew-fkl", "skew-rkl", "tvd", "sym-kl", "akl" };

/* w of the adaptive KL by sorting. */
static gdouble
share (guint n, const gdouble *p, const gdouble *q)
{
  g_autofree gboolean *taken = g_new0 (gboolean, n);
  gdouble sum = 0, head = 0, tail = 0;

  for (gint64 k = 0; k < n; k++) {
    gint64 best = -1;
    for (gint64 i = 0; i < n; i++)
      if (!taken[i] && (best < 0 || p[i] > p[best]))
        best = i;
    taken[best] = TRUE;
    sum += p[best];
    if (k == 0 || sum <= MU)
      head += fabs (p[best] - q[best]);
    else
      tail += fabs (p[best] - q[best]);
  }
  return head + tail > 0 ? head / (head + tail) : 0.5;
}

/* One id's term of D and A = q dD/dq, from the table of the specification. */
static void
define (KdDivergenceKind kind, gboolean drop, gdouble lp, gdouble lq, gdouble w, gdouble *term, gdouble *a)
{
  gdouble p = exp (lp), q = exp (lq), fkl = p * ((drop ? 0 : lp) - lq), rkl = q * (lq - lp), lm;

  switch (kind) {
  case KD_DIVERGENCE_JSD:
    lm = log (BETA * p + (1 - BETA) * q);
    *a = (1 - BETA) * q * (lq - lm);
    *term = BETA * p * (lp - lm) + *a;
    break;
  case KD_DIVERGENCE_SKEW_FORWARD_KL:
    lm = log (ALPHA * p + (1 - ALPHA) * q);
    *term = p * ((drop ? 0 : lp) - lm);
    *a = -(1 - ALPHA) * p * exp (lq - lm);
    break;
  case KD_DIVERGENCE_SKEW_REVERSE_KL:
    lm = log ((1 - ALPHA) * p + ALPHA * q);
    *term = q * (lq - lm);
    *a = *term - ALPHA * q * exp (lq - lm);
    break;
  case KD_DIVERGENCE_TOTAL_VARIATION:
    *term = 0.5 * fabs (p - q);
    *a = p > q ? -0.5 * q : p < q ? 0.5 * q
                                  : 0;
    break;
  default:
    w = kind == KD_DIVERGENCE_SYMMETRIC_KL ? 1 - LAMBDA : w;
    *term = w * fkl + (1 - w) * rkl;
    *a = w * -p + (1 - w) * rkl;
  }
}

static void
check (Table *t, KdDivergence *call, gdouble tolerance)
{
  g_autofree gdouble *grad = g_new (gdouble, t->size), *a = g_new (gdouble, t->size), *lp = g_new (gdouble, t->size),
                     *lq = g_new (gdouble, t->size), *p = g_new (gdouble, t->size), *q = g_new (gdouble, t->size);

  *call = (KdDivergence) { .kind = call->kind, .cross_entropy = call->cross_entropy, .level = call->level, .temperature = call->temperature, .teacher = call->teacher ? call->teacher : t->t, .teacher_type = call->teacher ? call->teacher_type : KD_REAL_F32, .n = t->n, .size = t->size, .student = t->s, .coef = t->coef, .scale = 4, .beta = BETA, .alpha = ALPHA, .lambda = LAMBDA, .mu = MU, .grad = t->grad, .value = t->value };
  memset (t->grad, 0, (gsize) (t->n * t->size) * sizeof (gfloat));
  kd_divergence_rows (call);
  ck_assert (t->value[1] == 0);
  for (gint64 r = 0; r < t->n; r++) {
    const gfloat *s = t->s + r * t->size, *teacher = t->t + r * t->size;
    gdouble T = call->temperature, value = 0, sum = 0, term, w = 0, lse_s = lse (s, t->size, T), lse_t = lse (teacher, t->size, T);
    if (t->coef[r] == 0)
      continue;
    for (gint64 i = 0; i < t->size; i++) {
      lp[i] = teacher[i] / T - lse_t;
      lq[i] = s[i] / T - lse_s;
      p[i] = exp (lp[i]);
      q[i] = exp (lq[i]);
    }
    if (call->kind == KD_DIVERGENCE_ADAPTIVE_KL)
      w = share ((guint) t->size, p, q);
    for (gint64 i = 0; i < t->size; i++) {
      define (call->kind, call->cross_entropy, lp[i], lq[i], w, &term, &a[i]);
      value += term;
      sum += a[i];
    }
    for (gint64 i = 0; i < t->size; i++)
      grad[i] = t->coef[r] * 4 / T * (a[i] - q[i] * sum);
    assert_rows (t, r, value, grad, tolerance, names[call->kind]);
  }
}

/* A first block far below the others, in one table or both: the references rise by more than a mixture's floor. */
GST_START_TEST (test_late_rise)
{
  for (gint level = 1; level <= kd_cpu_level (); level++)
    for (gint kind = KD_DIVERGENCE_JSD; kind <= KD_DIVERGENCE_SYMMETRIC_KL; kind++)
      for (guint which = 1; which <= 3; which++) {
        g_auto (Table) t = { 0 };
        table_init (&t, 4, 1500, 3);
        for (gint64 r = 0; r < t.n; r++)
          for (gint64 i = 0; i < 600; i++) {
            t.s[r * t.size + i] -= which & 1 ? 300 : 0;
            t.t[r * t.size + i] -= which & 2 ? 200 : 0;
          }
        check (&t, &(KdDivergence) { .kind = kind, .level = level, .temperature = 1 }, 1e-5);
      }
}
GST_END_TEST

static gboolean
has_entropy (gint kind)
{
  return kind == KD_DIVERGENCE_SKEW_FORWARD_KL || kind == KD_DIVERGENCE_SYMMETRIC_KL;
}

GST_START_TEST (test_kinds)
{
  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
    for (gint level = 1; level <= kd_cpu_level (); level++)
      for (gint kind = KD_DIVERGENCE_JSD; kind <= KD_DIVERGENCE_ADAPTIVE_KL; kind++)
        for (gint drop = 0; drop <= has_entropy (kind); drop++) {
          g_auto (Table) t = { 0 };
          if (kind == KD_DIVERGENCE_ADAPTIVE_KL && sizes[i] > 600)
            continue; /* the definition here is quadratic */
          table_init (&t, 4, sizes[i], 3);
          check (&t, &(KdDivergence) { .kind = kind, .cross_entropy = drop, .level = level, .temperature = drop ? 1 : 2 }, 5e-6);
        }
}
GST_END_TEST

/* A student near its teacher: values of 1e-4 and less still have their digits. Total variation has kinks and is of first order. */
GST_START_TEST (test_near)
{
  for (guint i = 1; i < G_N_ELEMENTS (sizes); i++)
    for (gint level = 1; level <= kd_cpu_level (); level++)
      for (gint kind = KD_DIVERGENCE_JSD; kind <= KD_DIVERGENCE_SYMMETRIC_KL; kind++)
        for (gint drop = 0; drop <= has_entropy (kind); drop++) {
          g_auto (Table) t = { 0 };
          if (kind == KD_DIVERGENCE_TOTAL_VARIATION)
            continue;
          table_init (&t, 4, sizes[i], 3);
          for (gint64 j = 0; j < t.n * t.size; j++)
            t.s[j] = t.t[j] + 0.01f * (gfloat) sin ((gdouble) j) + 100;
          check (&t, &(KdDivergence) { .kind = kind, .cross_entropy = drop, .level = level, .temperature = 1 }, 1e-4);
          for (gint64 r = 0; drop && r < t.n; r++) /* a teacher that is sure: its entropy is small too */
            t.s[r * t.size] = t.t[r * t.size] = 25;
          if (drop)
            check (&t, &(KdDivergence) { .kind = kind, .cross_entropy = drop, .level = level, .temperature = 1 }, 1e-4);
        }
}
GST_END_TEST

GST_START_TEST (test_teacher_types)
{
  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
    for (gint kind = KD_DIVERGENCE_JSD; kind <= KD_DIVERGENCE_SYMMETRIC_KL; kind++) {
      g_auto (Table) t = { 0 };
      table_init (&t, 4, sizes[i], 2);
      check (&t, &(KdDivergence) { .kind = kind, .temperature = 1, .teacher = t.half, .teacher_type = KD_REAL_F16 }, 3e-6);
      for (gsize j = 0; j < (gsize) (t.n * t.size); j++)
        t.t[j] = kd_bfloat_to_float (t.brain[j]);
      check (&t, &(KdDivergence) { .kind = kind, .temperature = 1, .teacher = t.brain, .teacher_type = KD_REAL_BF16 }, 3e-6);
    }
}
GST_END_TEST

/* Student and teacher on different halves: the value is near 1000, and in the gradient's differences of log-ratios float32 keeps four digits. */
GST_START_TEST (test_far_apart)
{
  for (gint level = 1; level <= kd_cpu_level (); level++)
    for (gint kind = KD_DIVERGENCE_SYMMETRIC_KL; kind <= KD_DIVERGENCE_ADAPTIVE_KL; kind++) {
      g_auto (Table) t = { 0 };
      table_init (&t, 4, 300, 3);
      for (gint64 i = 0; i < t.n * t.size; i++)
        *(i % t.size < t.size / 2 ? &t.t[i] : &t.s[i]) -= 1000;
      check (&t, &(KdDivergence) { .kind = kind, .level = level, .temperature = 1 }, 5e-6);
    }
}
GST_END_TEST

/* Ids that both mask with the lowest float32, as people do: no slope there, the others' as with a mask that is merely low. */
GST_START_TEST (test_masked)
{
  for (gint level = 1; level <= kd_cpu_level (); level++)
    for (gint kind = KD_DIVERGENCE_JSD; kind <= KD_DIVERGENCE_ADAPTIVE_KL; kind++) {
      g_autofree gfloat *low = g_new0 (gfloat, 4 * 700);
      for (gint lowest = 0; lowest < 2; lowest++) {
        g_auto (Table) t = { 0 };
        table_init (&t, 4, 700, 6);
        for (gint64 i = 0; i < t.n * t.size; i += 5)
          t.s[i] = t.t[i] = lowest ? -FLT_MAX : -1e4f;
        kd_divergence_rows (&(KdDivergence) { .kind = kind, .level = level, .temperature = 4, .teacher = t.t, .teacher_type = KD_REAL_F32, .n = t.n, .size = t.size, .student = t.s, .coef = t.coef, .scale = 1e4, .beta = BETA, .alpha = ALPHA, .lambda = LAMBDA, .mu = MU, .grad = t.grad, .value = t.value });
        for (gint64 i = 0; i < t.n * t.size; i++) {
          if (!lowest)
            low[i] = t.grad[i];
          else if (t.coef[i / t.size] != 0)
            ck_assert_msg (fabs (t.grad[i] - low[i]) <= 1e-3 && (i % 5 || fabs (t.grad[i]) < 1e-20), "%s, level %d: slope %g of %d, not %g", names[kind], level, t.grad[i], (gint) i, low[i]);
        }
      }
    }
}
GST_END_TEST

/* Nothing to learn where student and teacher are the same: the value is exactly 0, slopes are the rounding of p - q. */
GST_START_TEST (test_same)
{
  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++)
    for (gint level = 1; level <= kd_cpu_level (); level++)
      for (gint kind = KD_DIVERGENCE_JSD; kind <= KD_DIVERGENCE_ADAPTIVE_KL; kind++) {
        g_auto (Table) t = { 0 };
        KdDivergence call;
        table_init (&t, 4, sizes[i], i % 2 ? 3 : 30);
        memcpy (t.t, t.s, (gsize) (t.n * t.size) * sizeof (gfloat));
        call = (KdDivergence) { .kind = kind, .level = level, .temperature = 0.7 + i % 3, .teacher = t.t, .teacher_type = KD_REAL_F32, .n = t.n, .size = t.size, .student = t.s, .coef = t.coef, .scale = 4, .beta = BETA, .alpha = ALPHA, .lambda = LAMBDA, .mu = MU, .grad = t.grad, .value = t.value };
        memset (t.grad, 0, (gsize) (t.n * t.size) * sizeof (gfloat));
        kd_divergence_rows (&call);
        for (gint64 r = 0; r < t.n; r++)
          ck_assert_msg (t.coef[r] == 0 || t.value[r] == 0, "%s, level %d, %d classes: %g", names[kind], level, (gint) t.size, t.value[r]);
        for (gint64 j = 0; j < t.n * t.size; j++)
          ck_assert_msg (t.coef[j / t.size] == 0 || fabs (t.grad[j]) < 1e-6, "%s, level %d, %d classes: slope %g", names[kind], level, (gint) t.size, t.grad[j]);
      }
}
GST_END_TEST

static KdDivergence
one_row (gint kind, const gfloat *s, const gfloat *t, gfloat *grad, gdouble *value)
{
  static const gdouble one = 1;

  memset (grad, 0, 3 * sizeof *grad);
  return (KdDivergence) { .kind = kind, .n = 1, .size = 3, .student = s, .teacher = t, .teacher_type = KD_REAL_F32, .coef = &one, .temperature = 1, .scale = 1, .beta = BETA, .alpha = ALPHA, .lambda = LAMBDA, .mu = MU, .grad = grad, .value = value };
}

/* All of q on one id and all of p on another: mixtures stay finite, and so do their gradients; the same by the fast way (1e3) and the exact
 * one (1e30). */
GST_START_TEST (test_disjoint)
{
  static const gfloat s[][3] = { { 1e3f, -1e3f, -1e3f }, { 1e30f, -1e30f, 0 } }, p[][3] = { { -1e3f, 1e3f, 0 }, { -1e30f, 1e30f, 0 } };
  const gdouble jsd = -BETA * log (BETA) - (1 - BETA) * log (1 - BETA);
  const gdouble value[] = { [KD_DIVERGENCE_JSD] = jsd, [KD_DIVERGENCE_SKEW_FORWARD_KL] = -log (ALPHA), [KD_DIVERGENCE_SKEW_REVERSE_KL] = -log (ALPHA), [KD_DIVERGENCE_TOTAL_VARIATION] = 1 };

  for (guint i = 0; i < G_N_ELEMENTS (s); i++)
    for (gint kind = KD_DIVERGENCE_JSD; kind <= KD_DIVERGENCE_ADAPTIVE_KL; kind++) {
      gfloat grad[3];
      gdouble got;
      KdDivergence call = one_row (kind, s[i], p[i], grad, &got);
      kd_divergence_rows (&call);
      if (kind <= KD_DIVERGENCE_TOTAL_VARIATION)
        kd_assert_close (got, value[kind], 1e-6);
      else
        kd_assert_close (got, i ? 2e30 : 2e3, 1e-6);
      ck_assert (isfinite (grad[0]) && isfinite (grad[1]) && isfinite (grad[2]));
      if (kind == KD_DIVERGENCE_SYMMETRIC_KL) { /* forward half: q - p */
        kd_assert_close (grad[1], -(1 - LAMBDA), 1e-6);
      }
    }
}
GST_END_TEST

/* Alpha-beta at its corners and in the middle: forward KL, reverse KL, and the Bhattacharyya coefficient. */
GST_START_TEST (test_alpha_beta)
{
  static const gfloat s[3] = { 0.5f, 1, -2 }, t[3] = { 1, 0, 0.25f };
  gfloat grad[3], other[3];
  gdouble got, want, p[3], q[3], bc = 0;
  KdDivergence call = one_row (KD_DIVERGENCE_ALPHA_BETA, s, t, grad, &got), kl = one_row (KD_DIVERGENCE_FORWARD_KL, s, t, other, &want);

  call.alpha = 1;
  call.beta = 0;
  kd_divergence_rows (&call);
  kd_divergence_rows (&kl);
  kd_assert_close (got, want, 1e-6);
  for (guint i = 0; i < 3; i++)
    kd_assert_close (grad[i], other[i], 1e-6);
  call = one_row (KD_DIVERGENCE_ALPHA_BETA, s, t, grad, &got);
  call.alpha = 1e-6;
  call.beta = 1;
  kl = one_row (KD_DIVERGENCE_REVERSE_KL, s, t, other, &want);
  kd_divergence_rows (&call);
  kd_divergence_rows (&kl);
  kd_assert_close (got, want, 1e-5);
  for (guint i = 0; i < 3; i++)
    kd_assert_close (grad[i], other[i], 1e-5);
  for (guint i = 0; i < 3; i++) {
    p[i] = exp (t[i] - lse (t, 3, 1));
    q[i] = exp (s[i] - lse (s, 3, 1));
    bc += sqrt (p[i] * q[i]);
  }
  call = one_row (KD_DIVERGENCE_ALPHA_BETA, s, t, grad, &got);
  call.alpha = call.beta = 0.5;
  kd_divergence_rows (&call);
  kd_assert_close (got, 4 * (1 - bc), 1e-6);
  for (guint i = 0; i < 3; i++) /* d (-4 bc) / d z_i = 2 (q_i bc - sqrt (p_i q_i)) */
    kd_assert_close (grad[i], 2 * (q[i] * bc - sqrt (p[i] * q[i])), 1e-6);
  call.alpha = 1; /* equal tables: nothing */
  call.beta = 0;
  call.student = t;
  memset (grad, 0, sizeof grad);
  kd_divergence_rows (&call);
  kd_assert_close (got, 0, 1e-12);
  kd_assert_close (grad[0], 0, 1e-7);
}
GST_END_TEST

/* Ids that one model excludes add nothing; NaN and +infinity make the value NaN, and what is rejected too. */
GST_START_TEST (test_infinite)
{
  static const gfloat s[3] = { 0, 1, -INFINITY }, t[3] = { 1, 0, -INFINITY }, bad[][3] = { { 0, 0, NAN }, { 0, INFINITY, 0 }, { -INFINITY, -INFINITY, -INFINITY } };

  for (gint kind = KD_DIVERGENCE_JSD; kind <= KD_DIVERGENCE_ADAPTIVE_KL; kind++) {
    gfloat grad[3], two[3];
    gdouble value, expected;
    KdDivergence call = one_row (kind, s, t, two, &expected);
    call.size = 2;
    kd_divergence_rows (&call);
    call = one_row (kind, s, t, grad, &value);
    kd_divergence_rows (&call);
    kd_assert_close (value, expected, 1e-6);
    kd_assert_close (grad[0], two[0], 1e-6);
    ck_assert (grad[2] == 0);
    call.reject_infinite = 1;
    kd_divergence_rows (&call);
    ck_assert (isnan (value));
    for (guint i = 0; i < G_N_ELEMENTS (bad); i++) {
      call = one_row (kind, bad[i], t, grad, &value);
      kd_divergence_rows (&call);
      ck_assert (isnan (value) && grad[0] == 0);
    }
  }
}
GST_END_TEST

/* The ends of the parameters are other members of the family. */
GST_START_TEST (test_ends)
{
  static const gfloat s[3] = { 0, 1, -2 }, t[3] = { 1, 0.5f, -1 };
  static const struct {
    gint kind, same;
    gdouble end;
  } ends[] = { { KD_DIVERGENCE_JSD, KD_DIVERGENCE_FORWARD_KL, 0 }, { KD_DIVERGENCE_JSD, KD_DIVERGENCE_REVERSE_KL, 1 }, { KD_DIVERGENCE_SYMMETRIC_KL, KD_DIVERGENCE_FORWARD_KL, 0 }, { KD_DIVERGENCE_SYMMETRIC_KL, KD_DIVERGENCE_REVERSE_KL, 1 } };

  for (guint i = 0; i < G_N_ELEMENTS (ends); i++) {
    gfloat grad[3], other[3];
    gdouble value, expected;
    KdDivergence call = one_row (ends[i].kind, s, t, grad, &value), same = one_row (ends[i].same, s, t, other, &expected);
    call.beta = call.lambda = ends[i].end;
    kd_divergence_rows (&call);
    kd_divergence_rows (&same);
    kd_assert_close (value, expected, 1e-6);
    for (guint j = 0; j < 3; j++)
      kd_assert_close (grad[j], other[j], 1e-6);
  }
}
GST_END_TEST

static Suite *
mixtures_suite (void)
{
  Suite *s = suite_create ("mixtures");
  TCase *t = tcase_create ("all");

  suite_add_tcase (s, t);
  tcase_add_test (t, test_kinds);
  tcase_add_test (t, test_late_rise);
  tcase_add_test (t, test_near);
  tcase_add_test (t, test_far_apart);
  tcase_add_test (t, test_masked);
  tcase_add_test (t, test_same);
  tcase_add_test (t, test_teacher_types);
  tcase_add_test (t, test_disjoint);
  tcase_add_test (t, test_alpha_beta);
  tcase_add_test (t, test_infinite);
  tcase_add_test (t, test_ends);
  return s;
}

GST_CHECK_MAIN (mixtures)
