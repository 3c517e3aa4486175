/* KdTensor: memory, views, conversions; half precision against the definition. */
#include "kd-check.h"

#include <stdlib.h>
#include <string.h>

GST_START_TEST (memory_is_aligned_and_recycled)
{
  gint64 dims[2] = { 3, 5 };
  KdTensor *a = kd_tensor_new (KD_FLOAT32, 2, dims);
  gpointer data = a->data;

  ck_assert_uint_eq ((guintptr) data % 64, 0);
  ck_assert_uint_eq (a->n_bytes, 60);
  ck_assert (kd_tensor_is_writable (a));
  kd_tensor_ref (a);
  ck_assert (!kd_tensor_is_writable (a));
  kd_tensor_unref (a);
  kd_tensor_unref (a);
  a = kd_tensor_new (KD_FLOAT32, 2, dims);
#ifndef __SANITIZE_ADDRESS__ /* where memory goes back at once */
  ck_assert_ptr_eq (a->data, data);
#endif
  kd_tensor_unref (a);
}
GST_END_TEST

/* A table of many pages begins on a large one and holds its last byte. */
GST_START_TEST (large_memory_is_whole)
{
  static const gsize sizes[] = { 0, 1, 65, ((gsize) 2 << 20) - 1, (gsize) 2 << 20, ((gsize) 5 << 20) + 3 };

  for (guint i = 0; i < G_N_ELEMENTS (sizes); i++) {
    guint8 *memory = kd_memory_new (sizes[i]);

    ck_assert_uint_eq ((guintptr) memory % (sizes[i] < (gsize) 2 << 20 ? 64 : (gsize) 2 << 20), 0);
    memset (memory, 0x5a, MAX (sizes[i], 1));
    free (memory);
  }
#ifndef __SANITIZE_ADDRESS__ /* which would end the program */
  ck_assert_ptr_null (kd_memory_new (G_MAXSIZE / 2));
#endif
}
GST_END_TEST

/* What was given back comes again, unless it is too small or in use. */
GST_START_TEST (borrowed_memory_is_kept)
{
  guint8 *first, *second, *third;

  kd_memory_trim ();
  first = kd_memory_borrow ((gsize) 3 << 20);
  memset (first, 0x5a, (gsize) 3 << 20);
  kd_memory_give_back (first);
  second = kd_memory_borrow (100);
  third = kd_memory_borrow (100);
  ck_assert (second == first && third != first && (guintptr) third % 64 == 0);
  kd_memory_give_back (third);
  first = kd_memory_borrow (101); /* third is kept, and too small */
  memset (first, 0x5a, 101);
  memset (second, 0x5a, 100);
  kd_memory_give_back (first);
  kd_memory_give_back (second);
  kd_memory_give_back (NULL);
  ck_assert (kd_memory_borrow (0) == second); /* the last one */
  kd_memory_give_back (second);
  ck_assert_ptr_null (kd_memory_borrow (G_MAXSIZE));
  kd_memory_trim ();
  kd_memory_trim ();
}
GST_END_TEST

GST_START_TEST (slice_shares_take_copies)
{
  gint64 dims[2] = { 4, 2 }, rows[3] = { 3, 0, 3 };
  g_autoptr (KdTensor) a = kd_tensor_new (KD_INT32, 2, dims);
  g_autoptr (KdTensor) slice = NULL;
  g_autoptr (KdTensor) taken = NULL;

  for (gint i = 0; i < 8; i++)
    ((gint32 *) a->data)[i] = i;
  slice = kd_tensor_slice (a, 1, 2);
  ck_assert_ptr_eq (slice->data, (gint32 *) a->data + 2);
  ck_assert (!kd_tensor_is_writable (slice));
  taken = kd_tensor_take (a, rows, 3);
  ck_assert_int_eq (((gint32 *) taken->data)[0], 6);
  ck_assert_int_eq (((gint32 *) taken->data)[2], 0);
  ck_assert_int_eq (((gint32 *) taken->data)[5], 7);
}
GST_END_TEST

GST_START_TEST (utf8_rows)
{
  gint64 offsets[4] = { 0, 2, 2, 5 }, rows[2] = { 2, 0 };
  g_autoptr (KdTensor) a = kd_tensor_new_utf8 (3, offsets, "abcde");
  g_autoptr (KdTensor) taken = kd_tensor_take (a, rows, 2);
  KdTensor *both[2] = { a, taken };
  g_autoptr (KdTensor) joined = kd_tensor_concat (both, 2, NULL);

  ck_assert_int_eq (taken->offsets[1], 3);
  ck_assert (!memcmp (taken->data, "cdeab", 5));
  ck_assert_int_eq (joined->dims[0], 5);
  ck_assert_int_eq (joined->offsets[5], 10);
  ck_assert (!memcmp (joined->data, "abcdecdeab", 10));
}
GST_END_TEST

GST_START_TEST (concat_refuses)
{
  gint64 a_dims[2] = { 2, 3 }, b_dims[2] = { 2, 4 };
  g_autoptr (KdTensor) a = kd_tensor_new_zero (KD_FLOAT32, 2, a_dims), b = kd_tensor_new_zero (KD_FLOAT32, 2, b_dims),
                       c = kd_tensor_new_zero (KD_FLOAT64, 2, a_dims);
  KdTensor *shapes[2] = { a, b }, *types[2] = { a, c };
  GError *error = NULL;

  ck_assert (!kd_tensor_concat (shapes, 2, &error));
  kd_assert_error (error, KD_ERROR_SHAPE, "[2,3], [2,4]");
  ck_assert (!kd_tensor_concat (types, 2, &error));
  kd_assert_error (error, KD_ERROR_DTYPE, "float32, float64");
}
GST_END_TEST

GST_START_TEST (shapes_that_overflow_are_refused)
{
  gint64 huge[3] = { G_MAXINT64, 2, 2 }, negative[1] = { -1 };
  gsize bytes;

  ck_assert (!kd_shape_bytes (KD_FLOAT32, 3, huge, &bytes));
  ck_assert (!kd_shape_bytes (KD_FLOAT32, 1, negative, &bytes));
  ck_assert (!kd_shape_bytes (KD_FLOAT32, KD_MAX_RANK + 1, huge, &bytes));
}
GST_END_TEST

/* Every half is exactly a float and comes back; between two neighbours the nearer one is taken, ties go to even. */
GST_START_TEST (half_is_exact_and_rounds_to_even)
{
  for (guint h = 0; h < 0x10000; h++) {
    gfloat f = kd_half_to_float ((guint16) h);
    if (isnan (f)) {
      ck_assert (isnan (kd_half_to_float (kd_float_to_half (f))));
      continue;
    }
    ck_assert_uint_eq (kd_float_to_half (f), h);
    if ((h & 0x7fff) < 0x7bff) {
      gfloat next = kd_half_to_float ((guint16) (h + 1)), middle = f + (next - f) / 2;
      ck_assert_uint_eq (kd_float_to_half (middle), h & 1 ? h + 1 : h);
      ck_assert_uint_eq (kd_float_to_half (nextafterf (middle, f)), h);
      ck_assert_uint_eq (kd_float_to_half (nextafterf (middle, next)), h + 1);
    }
  }
  ck_assert_uint_eq (kd_float_to_half (65520.0f), 0x7c00);
  ck_assert_uint_eq (kd_float_to_half (65519.0f), 0x7bff);
  ck_assert_uint_eq (kd_float_to_half (1e-10f), 0);
}
GST_END_TEST

GST_START_TEST (bfloat_rounds_to_even)
{
  ck_assert_uint_eq (kd_float_to_bfloat (1.0f), 0x3f80);
  ck_assert_uint_eq (kd_float_to_bfloat (0x1.01p0f), 0x3f80); /* a tie: even is below */
  ck_assert_uint_eq (kd_float_to_bfloat (0x1.03p0f), 0x3f82); /* a tie: even is above */
  ck_assert (isnan (kd_bfloat_to_float (kd_float_to_bfloat (NAN))));
  ck_assert (isinf (kd_bfloat_to_float (kd_float_to_bfloat (3.4e38f))));
}
GST_END_TEST

GST_START_TEST (casts)
{
  gint64 dims[1] = { 3 };
  g_autoptr (KdTensor) a = kd_tensor_new (KD_FLOAT32, 1, dims);
  g_autoptr (KdTensor) bytes = NULL;
  g_autoptr (KdTensor) big = kd_tensor_new (KD_INT64, 1, dims);
  g_autoptr (KdTensor) same = NULL;
  gint64 offsets[2] = { 0, 1 };
  g_autoptr (KdTensor) text = kd_tensor_new_utf8 (1, offsets, "a");
  GError *error = NULL;

  ((gfloat *) a->data)[0] = -3;
  ((gfloat *) a->data)[1] = 2.5f;
  ((gfloat *) a->data)[2] = 1e9f;
  bytes = kd_tensor_cast (a, KD_UINT8, &error);
  ck_assert_uint_eq (((guint8 *) bytes->data)[0], 0);
  ck_assert_uint_eq (((guint8 *) bytes->data)[1], 2);
  ck_assert_uint_eq (((guint8 *) bytes->data)[2], 255);
  ((gint64 *) big->data)[0] = G_MAXINT64;
  same = kd_tensor_cast (big, KD_INT64, &error);
  ck_assert_ptr_eq (same, big);
  ck_assert (!kd_tensor_cast (text, KD_FLOAT32, &error));
  kd_assert_error (error, KD_ERROR_DTYPE, "from=utf8, to=float32");
}
GST_END_TEST

static Suite *
tensor_suite (void)
{
  Suite *suite = suite_create ("tensor");
  TCase *tcase = tcase_create ("tensor");

  suite_add_tcase (suite, tcase);
  tcase_add_test (tcase, memory_is_aligned_and_recycled);
  tcase_add_test (tcase, large_memory_is_whole);
  tcase_add_test (tcase, borrowed_memory_is_kept);
  tcase_add_test (tcase, slice_shares_take_copies);
  tcase_add_test (tcase, utf8_rows);
  tcase_add_test (tcase, concat_refuses);
  tcase_add_test (tcase, shapes_that_overflow_are_refused);
  tcase_add_test (tcase, half_is_exact_and_rounds_to_even);
  tcase_add_test (tcase, bfloat_rounds_to_even);
  tcase_add_test (tcase, casts);
  return suite;
}

GST_CHECK_MAIN (tensor)
