/* Partial selection. A row is compared in groups of 16 with the smallest value that is still in; what is larger goes to a list of
 * candidates, and a full list is cut back to the best k. A candidate is one integer, value above and id below, so that one comparison
 * orders by value and then by id. */
#include "kd-topk-private.h"
#include "kd-kernel.h"
#include <stdlib.h>

#define GROUP 16

/* Larger value, larger key; of equal values the lower id has the larger key. -0 counts as 0. */
KD_BODY uint64_t
key_of (float value, int64_t id)
{
  uint32_t bits = kd_as_bits (value + 0.0f);

  bits ^= bits >> 31 ? 0xffffffffu : 0x80000000u;
  return (uint64_t) bits << 32 | (0xffffffffu - (uint32_t) id);
}

static int64_t
id_of (uint64_t key)
{
  return (int64_t) (0xffffffffu - (uint32_t) key);
}

static float
value_of (uint64_t key)
{
  uint32_t bits = (uint32_t) (key >> 32);

  return kd_as_float (bits >> 31 ? bits ^ 0x80000000u : ~bits);
}

static void
swap (uint64_t *a, uint64_t *b)
{
  uint64_t c = *a;

  *a = *b;
  *b = c;
}

static uint64_t
median (uint64_t a, uint64_t b, uint64_t c)
{
  if ((a > b) == (b > c))
    return b;
  return (a > b) == (a > c) ? c : a;
}

/* Brings the @k largest of @key [n] to the front, in no order. All keys differ. */
static void
select_largest (uint64_t *key, int64_t n, int64_t k)
{
  int64_t low = 0, high = n - 1;

  while (low < high) {
    uint64_t pivot = median (key[low], key[low + (high - low) / 2], key[high]);
    int64_t i = low, j = high;
    while (i <= j) {
      while (key[i] > pivot)
        i++;
      while (key[j] < pivot)
        j--;
      if (i <= j)
        swap (&key[i++], &key[j--]);
    }
    if (k - 1 <= j)
      high = j;
    else if (k - 1 >= i)
      low = i;
    else
      return;
  }
}

/* Cuts the candidates back to @k; gives the value that others have to exceed (equal ones come later and have higher ids). */
static float
cut_back (uint64_t *key, int64_t *n, int64_t k)
{
  uint64_t least = key[0];

  select_largest (key, *n, k);
  *n = k;
  least = key[0];
  for (int64_t i = 1; i < k; i++)
    least = key[i] < least ? key[i] : least;
  return value_of (least);
}

KD_BODY void
collect_body (const void *row, KdReal type, int64_t size, int64_t k, uint64_t *key, int64_t *ret_n)
{
  float buffer[KD_BLOCK] __attribute__ ((aligned (64))), bar = -INFINITY;
  int64_t n = 0, capacity = (int64_t) kd_topk_scratch (k) - GROUP;
  int full = 0;

  for (int64_t at = 0; at < size; at += KD_BLOCK) {
    int64_t end = size - at < KD_BLOCK ? size - at : KD_BLOCK;
    const float *x = kd_load_block (row, type, at, end, buffer);
    for (int64_t i = 0; i < end; i += GROUP) {
      int above = !full || end - i < GROUP;
      if (!above)
#pragma omp simd reduction(| \
                           : above)
        for (int64_t j = 0; j < GROUP; j++)
          above |= x[i + j] > bar;
      if (!above)
        continue;
      for (int64_t j = i; j < i + GROUP && j < end; j++) {
        key[n] = key_of (x[j], at + j);
        n += !full || x[j] > bar;
      }
      if (n > capacity) {
        bar = cut_back (key, &n, k);
        full = 1;
      }
    }
  }
  *ret_n = n;
}

KD_KERNEL (collect, (const void *row, KdReal type, int64_t size, int64_t k, uint64_t *key, int64_t *ret_n), (row, type, size, k, key, ret_n))

static int
compare_keys (const void *a, const void *b)
{
  uint64_t x = *(const uint64_t *) a, y = *(const uint64_t *) b;

  return (x < y) - (x > y);
}

void
kd_topk_row (const void *row, KdReal type, int64_t size, int64_t k, int64_t *ids, uint64_t *scratch, int level)
{
  int64_t n;

  collect[level](row, type, size, k, scratch, &n);
  select_largest (scratch, n, k);
  qsort (scratch, (size_t) k, sizeof *scratch, compare_keys);
  for (int64_t i = 0; i < k; i++)
    ids[i] = id_of (scratch[i]);
}

void
kd_topk_rows (const KdTopk *call)
{
  int level = kd_kernel_level (call->level);

#pragma omp parallel if (call->n > 1 && call->n * call->size >= KD_PARALLEL_ELEMENTS)
  {
    uint64_t *scratch = malloc (kd_topk_scratch (call->k) * sizeof *scratch);

    if (!scratch)
      abort (); /* as GLib does */
#pragma omp for schedule(static)
    for (int64_t i = 0; i < call->n; i++)
      if (!call->coef || call->coef[i] != 0.0)
        kd_topk_row (kd_row_of (call->values, call->type, i, call->size), call->type, call->size, call->k, call->ids + i * call->k, scratch, level);
    free (scratch);
  }
}
