/* Sparse teachers against the definition: the outcomes' probabilities in double, the gradient by differences of that. */
#include "kd-leaf.h"

#define K 5

/* One row: what the kernel gets and what the definition works on. */
typedef struct {
  gint64 size, ids[K], label;
  gfloat *s, *t, logprobs[K], weights[K];
} Row;

static void
row_clear (Row *row)
{
  g_free (row->s);
  g_free (row->t);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Row, row_clear)

/* Ids in several blocks; log-probabilities at temperature 1 of the teacher's own logits, so that their sum is below 1. */
static void
row_init (Row *row, gint64 size, guint64 seed)
{
  gdouble z = 0, sum = 0;
  KdPermutation permutation;
  KdRandom random;

  *row = (Row) { .size = size, .label = size / 2, .s = g_new (gfloat, size), .t = g_new (gfloat, size) };
  kd_random_init (&random, seed, 1, 2, (guint64) size);
  kd_permutation_init (&permutation, (guint64) size, seed, 0);
  for (gint64 i = 0; i < size; i++) {
    row->s[i] = (gfloat) (2 * kd_random_normal (&random));
    row->t[i] = (gfloat) (2 * kd_random_normal (&random));
    z += exp (row->t[i]);
  }
  for (gint i = 0; i < K; i++) {
    row->ids[i] = i < size ? (gint64) kd_permutation_at (&permutation, (guint64) i) : -1;
    row->logprobs[i] = i < size ? (gfloat) (row->t[row->ids[i]] - log (z)) : NAN; /* padding is not read */
    row->weights[i] = (gfloat) (0.1 + kd_random_uniform (&random));
    sum += row->weights[i];
  }
  for (gint i = 0; i < K; i++)
    row->weights[i] = (gfloat) (row->weights[i] / sum);
}

/* The teacher's outcomes: p of each id (0 where nothing is known) and, with a bucket, of all ids that are not known. */
typedef struct {
  gdouble *p;
  gboolean *known, bucket, restricted;
  gdouble p_bucket;
} Teacher;

static void
teacher_clear (Teacher *teacher)
{
  g_free (teacher->p);
  g_free (teacher->known);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Teacher, teacher_clear)

static void
spread_rest (const KdSparse *call, const Row *row, gdouble rest, Teacher *t)
{
  gint64 n_known = 0;

  for (gint64 i = 0; i < row->size; i++)
    n_known += t->known[i];
  t->bucket = call->tail == KD_TAIL_BUCKET && n_known < row->size && !t->restricted;
  t->p_bucket = rest;
  for (gint64 i = 0; call->tail == KD_TAIL_UNIFORM && !t->restricted && i < row->size; i++)
    t->p[i] += t->known[i] ? 0 : rest / (gdouble) (row->size - n_known);
  if (call->tail == KD_TAIL_LABEL && (!t->restricted || t->known[row->label]))
    t->p[row->label] += rest;
}

static void
teacher_stored (const KdSparse *call, const Row *row, gdouble temperature, Teacher *t)
{
  gdouble a = call->cache_temperature / temperature, sum = 0, z = 0, rest, w = 0;
  gboolean inside = call->tail == KD_TAIL_RENORM || (t->restricted && (call->tail == KD_TAIL_BUCKET || call->tail == KD_TAIL_UNIFORM));

  for (gint i = 0; i < K && i < row->size; i++) {
    sum += exp (row->logprobs[i]);
    w += row->weights[i];
  }
  rest = MIN (row->size, K) == row->size ? 0 : MAX (0, 1 - sum);
  inside = inside || (t->restricted && call->tail == KD_TAIL_LABEL && !t->known[row->label]);
  for (gint i = 0; i < K && i < row->size; i++)
    z += exp (a * row->logprobs[i]);
  rest = inside || rest == 0 ? 0 : pow (rest, a);
  z += rest;
  for (gint i = 0; i < K && i < row->size; i++)
    t->p[row->ids[i]] = call->form == KD_SPARSE_SAMPLED ? row->weights[i] / (call->normalize ? w : 1)
        : call->tail == KD_TAIL_TRUNCATE                ? exp (row->logprobs[i])
                                                        : exp (a * row->logprobs[i]) / z;
  if (call->form == KD_SPARSE_TOPK && call->tail != KD_TAIL_TRUNCATE)
    spread_rest (call, row, rest / z, t);
}

/* Online: the K largest of teacher, student or both. */
static void
mark_largest (const gfloat *x, gint64 size, gboolean *known)
{
  for (gint k = 0; k < K && k < size; k++) {
    gint64 best = -1;
    for (gint64 i = 0; i < size; i++)
      if (known[i] < 2 && (best < 0 || x[i] > x[best]))
        best = i;
    known[best] = 2;
  }
  for (gint64 i = 0; i < size; i++)
    known[i] = known[i] != 0;
}

static void
teacher_online (const KdSparse *call, const Row *row, gdouble temperature, Teacher *t)
{
  gdouble z = 0, inside = 0;

  if (call->source != KD_SUPPORT_STUDENT)
    mark_largest (row->t, row->size, t->known);
  if (call->source != KD_SUPPORT_TEACHER)
    mark_largest (row->s, row->size, t->known);
  for (gint64 i = 0; i < row->size; i++) {
    t->p[i] = exp (row->t[i] / temperature);
    z += t->p[i];
    inside += t->known[i] ? t->p[i] : 0;
  }
  if (call->tail == KD_TAIL_RENORM || (t->restricted && call->tail != KD_TAIL_TRUNCATE && !(call->tail == KD_TAIL_LABEL && t->known[row->label])))
    z = inside;
  for (gint64 i = 0; i < row->size; i++)
    t->p[i] = t->known[i] ? t->p[i] / z : 0;
  if (call->tail != KD_TAIL_TRUNCATE)
    spread_rest (call, row, (z - inside) / z, t);
  t->restricted = t->restricted || call->tail == KD_TAIL_RENORM;
}

static Teacher
teacher_of (const KdSparse *call, const Row *row, gdouble temperature)
{
  Teacher t = { g_new0 (gdouble, row->size), g_new0 (gboolean, row->size), FALSE, call->restricted, 0 };

  if (call->form == KD_SPARSE_ONLINE) {
    teacher_online (call, row, temperature, &t);
    return t;
  }
  for (gint i = 0; i < K && i < row->size; i++)
    t.known[row->ids[i]] = TRUE;
  teacher_stored (call, row, temperature, &t);
  return t;
}

static gdouble
kl (gdouble p, gdouble q)
{
  return p > 0 ? p * log (p / q) : 0;
}

/* One outcome's part; w is the adaptive KL's. */
static gdouble
part (const KdDivergence *d, gdouble p, gdouble q, gdouble w)
{
  gdouble entropy = d->cross_entropy && p > 0 ? p * log (p) : 0, m;

  switch (d->kind) {
  case KD_DIVERGENCE_FORWARD_KL:
    return kl (p, q) - entropy;
  case KD_DIVERGENCE_REVERSE_KL:
    return kl (q, p);
  case KD_DIVERGENCE_JSD:
    m = d->beta * p + (1 - d->beta) * q;
    return d->beta * kl (p, m) + (1 - d->beta) * kl (q, m);
  case KD_DIVERGENCE_SKEW_FORWARD_KL:
    return kl (p, d->alpha * p + (1 - d->alpha) * q) - entropy;
  case KD_DIVERGENCE_SKEW_REVERSE_KL:
    return kl (q, (1 - d->alpha) * p + d->alpha * q);
  case KD_DIVERGENCE_TOTAL_VARIATION:
    return 0.5 * fabs (p - q);
  case KD_DIVERGENCE_SYMMETRIC_KL:
    return (1 - d->lambda) * (kl (p, q) - entropy) + d->lambda * kl (q, p);
  default:
    return w * kl (p, q) + (1 - w) * kl (q, p);
  }
}

/* Outcomes of the row: p and q of each. */
static gint64
make_outcomes (const Teacher *t, const Row *row, const gdouble *s, gdouble temperature, gdouble *p, gdouble *q)
{
  gdouble z = 0, q_bucket = 0;
  gint64 n = 0;

  for (gint64 i = 0; i < row->size; i++)
    z += !t->restricted || t->known[i] ? exp (s[i] / temperature) : 0;
  for (gint64 i = 0; i < row->size; i++) {
    gdouble one = exp (s[i] / temperature) / z;
    if (!t->known[i] && t->restricted)
      continue;
    if (!t->known[i] && t->bucket) {
      q_bucket += one;
      continue;
    }
    p[n] = t->p[i];
    q[n++] = one;
  }
  if (t->bucket) {
    p[n] = t->p_bucket;
    q[n++] = q_bucket;
  }
  return n;
}

/* arXiv:2404.02657 as its code: p sorted, the head while the sum is within mu and always the first. */
static gdouble
adaptive_weight (gdouble mu, gint64 n, const gdouble *p, const gdouble *q)
{
  g_autofree gboolean *used = g_new0 (gboolean, n);
  gdouble sum = 0, head = 0, tail = 0;

  for (gint64 k = 0; k < n; k++) {
    gint64 best = -1;
    for (gint64 i = 0; i < n; i++)
      if (!used[i] && (best < 0 || p[i] > p[best]))
        best = i;
    used[best] = TRUE;
    sum += p[best];
    if (k == 0 || sum <= mu)
      head += fabs (p[best] - q[best]);
    else
      tail += fabs (p[best] - q[best]);
  }
  return head + tail > 0 ? head / (head + tail) : 0.5;
}

static gdouble
definition (const KdDivergence *d, const Teacher *t, const Row *row, const gdouble *s, gdouble temperature, gdouble *w)
{
  g_autofree gdouble *p = g_new (gdouble, row->size + 1), *q = g_new (gdouble, row->size + 1);
  gint64 n = make_outcomes (t, row, s, temperature, p, q);
  gdouble value = 0;

  if (isnan (*w))
    *w = adaptive_weight (d->mu, n, p, q);
  for (gint64 i = 0; i < n; i++)
    value += part (d, p[i], q[i], *w);
  return value;
}

/* Runs the kernel on one row, at an offset of 3 in the gradient, and compares; of long rows the known ids and some others. */
static void
check (KdSparse *call, Row *row, gdouble temperature, gint level)
{
  g_autofree gfloat *grad = g_new (gfloat, row->size);
  g_autofree gdouble *s = g_new (gdouble, row->size);
  gdouble coef = 0.7, value, want, w = NAN, largest = 0;
  guint8 problem;
  g_auto (Teacher) t = teacher_of (call, row, temperature);

  for (gint64 i = 0; i < row->size; i++) {
    s[i] = row->s[i];
    grad[i] = call->dense.fresh ? NAN : 3;
  }
  call->dense.n = 1;
  call->dense.size = row->size;
  call->dense.student = row->s;
  call->dense.teacher = row->t;
  call->dense.teacher_type = KD_REAL_F32;
  call->dense.coef = &coef;
  call->dense.temperature = temperature;
  call->dense.scale = 2;
  call->dense.grad = grad;
  call->dense.value = &value;
  call->dense.level = level;
  call->k = K;
  call->ids = row->ids;
  call->values = call->form == KD_SPARSE_SAMPLED ? row->weights : row->logprobs;
  call->label = &row->label;
  call->problem = &problem;
  kd_sparse_rows (call);
  ck_assert_int_eq (problem, KD_SPARSE_FINE);
  want = definition (&call->dense, &t, row, s, temperature, &w);
  ck_assert_msg (fabs (value - want) <= 2e-6 * (1 + fabs (want)), "form %d tail %d restricted %d kind %d size %d: %.9g, not %.9g", call->form, call->tail,
      call->restricted, call->dense.kind, (gint) row->size, value, want);
  for (gint64 i = 0; i < row->size; i++) {
    gdouble step = 1e-4, at = s[i], up, got = grad[i] - (call->dense.fresh ? 0 : 3), slope;
    if (i % (1 + row->size / 40) && !t.known[i])
      continue;
    s[i] = at + step;
    up = definition (&call->dense, &t, row, s, temperature, &w);
    s[i] = at - step;
    slope = coef * 2 * (up - definition (&call->dense, &t, row, s, temperature, &w)) / (2 * step);
    s[i] = at;
    largest = MAX (largest, fabs (slope));
    ck_assert_msg (fabs (got - slope) <= 2e-6 + 1e-5 * largest, "form %d tail %d restricted %d kind %d size %d: gradient %d is %.9g, not %.9g", call->form,
        call->tail, call->restricted, call->dense.kind, (gint) row->size, (gint) i, got, slope);
  }
}

static const gint64 few[] = { 1, 3, 5, 6, 39, 700 };

/* All kinds with all tails that leave them finite. */
static void
check_all (KdSparseForm form, gint level)
{
  for (guint i = 0; i < G_N_ELEMENTS (few); i++)
    for (gint kind = 0; kind <= KD_DIVERGENCE_ADAPTIVE_KL; kind++)
      for (gint tail = 0; tail <= KD_TAIL_LABEL; tail++)
        for (gint restricted = 0; restricted < 2; restricted++) {
          g_auto (Row) row = { 0 };
          KdSparse call = { .dense = { .kind = kind, .beta = 0.3, .alpha = 0.2, .lambda = 0.4, .mu = 0.5, .cross_entropy = tail == 1, .fresh = restricted }, .form = form, .tail = tail, .restricted = restricted, .cache_temperature = tail == 2 ? 1.5 : 1, .source = (kind + tail) % 3 };
          row_init (&row, few[i], (guint64) (kind + 10 * tail));
          call.dense.size = few[i];
          if (!kd_sparse_is_infinite (&call))
            check (&call, &row, tail == 3 ? 2 : 1, level);
        }
}

GST_START_TEST (test_topk)
{
  for (gint level = 1; level <= kd_cpu_level (); level++)
    check_all (KD_SPARSE_TOPK, level);
}
GST_END_TEST

GST_START_TEST (test_online)
{
  check_all (KD_SPARSE_ONLINE, 0);
  check_all (KD_SPARSE_ONLINE, 1);
}
GST_END_TEST

GST_START_TEST (test_sampled)
{
  for (guint i = 0; i < G_N_ELEMENTS (few); i++)
    for (gint mode = 0; mode < 4; mode++) {
      g_auto (Row) row = { 0 };
      KdSparse call = { .form = KD_SPARSE_SAMPLED, .tail = KD_TAIL_BUCKET, .normalize = mode & 1, .dense.cross_entropy = mode & 2 };
      row_init (&row, few[i], (guint64) mode);
      check (&call, &row, 1.3, 0);
    }
}
GST_END_TEST

KD_TESTS (sparse, test_topk, test_online, test_sampled)
