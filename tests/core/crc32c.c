/* CRC-32C: RFC 3720's vectors, and that any way of cutting the data gives the same number. */
#include "kd-check.h"
#include "math/kd-crc32c.h"

GST_START_TEST (test_rfc3720)
{
  guint8 data[32] = { 0 };

  ck_assert_uint_eq (kd_crc32c (0, "123456789", 9), 0xe3069283);
  ck_assert_uint_eq (kd_crc32c (0, data, 32), 0x8a9136aa);
  memset (data, 0xff, 32);
  ck_assert_uint_eq (kd_crc32c (0, data, 32), 0x62a8ab43);
  for (guint i = 0; i < 32; i++)
    data[i] = (guint8) i;
  ck_assert_uint_eq (kd_crc32c (0, data, 32), 0x46dd794e);
  ck_assert_uint_eq (kd_crc32c (0, NULL, 0), 0);
}
GST_END_TEST;

/* Bit by bit: the definition. */
static guint32
slow (const guint8 *data, gsize n)
{
  guint32 crc = ~0u;

  for (gsize i = 0; i < n; i++) {
    crc ^= data[i];
    for (guint bit = 0; bit < 8; bit++)
      crc = crc & 1 ? crc >> 1 ^ 0x82f63b78u : crc >> 1;
  }
  return ~crc;
}

GST_START_TEST (test_any_cut)
{
  static guint8 data[20000];
  guint32 state = 1;

  for (guint i = 0; i < sizeof data; i++)
    data[i] = (guint8) ((state = state * 1664525u + 1013904223u) >> 24);
  for (gsize n = 0; n < sizeof data; n = n * 3 / 2 + 1) {
    guint32 whole = kd_crc32c (0, data + 3, n - MIN (n, 3)), cut = 0;
    gsize size = n - MIN (n, 3), half = size / 2 + size % 7 * (size > 14);
    cut = kd_crc32c (kd_crc32c (0, data + 3, half), data + 3 + half, size - half);
    ck_assert_uint_eq (whole, slow (data + 3, size));
    ck_assert_uint_eq (whole, cut);
  }
}
GST_END_TEST;

GST_START_TEST (test_one_flipped_bit)
{
  static guint8 data[4096];
  guint32 good = kd_crc32c (0, data, sizeof data);

  for (guint bit = 0; bit < 8 * sizeof data; bit += 97) {
    data[bit / 8] ^= (guint8) (1 << bit % 8);
    ck_assert_uint_ne (kd_crc32c (0, data, sizeof data), good);
    data[bit / 8] ^= (guint8) (1 << bit % 8);
  }
}
GST_END_TEST;

static Suite *
crc32c_suite (void)
{
  Suite *s = suite_create (KD_TEST_NAME);
  TCase *t = tcase_create ("crc32c");

  tcase_add_test (t, test_rfc3720);
  tcase_add_test (t, test_any_cut);
  tcase_add_test (t, test_one_flipped_bit);
  suite_add_tcase (s, t);
  return s;
}

GST_CHECK_MAIN (crc32c)
