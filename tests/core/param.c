/* Parameter tables and specifications: what they take and what they refuse. */
#include "kd-check.h"

typedef struct {
  gdouble rate;
  gint64 label_count;
  guint64 seed;
  gboolean on;
  gint mode;
  guint parts;
  gchar *text;
} Block;

static const KdEnumValue modes[] = { { 0, "slow", "" }, { 7, "fast", "" }, { 0, NULL, NULL } };
static const KdEnumValue parts[] = { { 1, "left", "" }, { 2, "mid", "" }, { 4, "right", "" }, { 0, NULL, NULL } };
static const KdParam table[] = {
  KD_PARAM_DOUBLE (Block, rate, 0, 1, 0.5, "r"), KD_PARAM_INT (Block, label_count, -5, 5, 2, "l"), KD_PARAM_UINT64 (Block, seed, 3, "s"),
  KD_PARAM_BOOL (Block, on, TRUE, "o"), KD_PARAM_ENUM (Block, mode, modes, 7, "m"), KD_PARAM_FLAGS (Block, parts, parts, 5, "p"), KD_PARAM_STRING (Block, text, "x", "t"), KD_PARAM_END
};

GST_START_TEST (defaults_and_copies)
{
  Block a = { 0 }, b;

  kd_params_init (table, &a);
  ck_assert (a.rate == 0.5 && a.label_count == 2 && a.seed == 3 && a.on && a.mode == 7 && a.parts == 5);
  kd_params_copy (table, &a, &b, sizeof b);
  ck_assert_str_eq (b.text, "x");
  ck_assert (b.text != a.text);
  kd_params_clear (table, &a);
  kd_params_clear (table, &b);
  ck_assert_ptr_nonnull (kd_param_find (table, "label-count"));
  ck_assert_ptr_nonnull (kd_param_find (table, "label_count"));
  ck_assert_ptr_null (kd_param_find (table, "label"));
}
GST_END_TEST

GST_START_TEST (strings_set_members)
{
  static const gchar *good[][2] = { { "rate", "0.25" }, { "label-count", "-5" }, { "seed", "18446744073709551615" }, { "on", "false" }, { "mode", "slow" },
    { "parts", "left+mid" }, { "parts", "" }, { "parts", "right" }, { "text", "a b" } };
  Block a = { 0 };
  GError *error = NULL;

  kd_params_init (table, &a);
  for (guint i = 0; i < G_N_ELEMENTS (good); i++) {
    const KdParam *param = kd_param_find (table, good[i][0]);
    g_autofree gchar *back = NULL;
    ck_assert (kd_param_set_string (param, &a, good[i][1], "test", &error));
    back = kd_param_to_string (param, &a);
    if (i != 2)
      ck_assert_str_eq (back, good[i][1]);
  }
  ck_assert (a.seed == G_MAXUINT64 && a.parts == 4);
  ck_assert (kd_param_set_string (kd_param_find (table, "parts"), &a, "right,left,left", "test", &error) && a.parts == 5);
  kd_params_clear (table, &a);
}
GST_END_TEST

GST_START_TEST (bad_strings_are_refused)
{
  static const struct {
    const gchar *name, *value, *part;
    gint code;
  } bad[] = {
    { "rate", "1.5", "rate=1.5, range=0..1", KD_ERROR_RANGE },
    { "rate", "nan", "range=0..1", KD_ERROR_RANGE },
    { "rate", "1x", "wanted=a number", KD_ERROR_FORMAT },
    { "label-count", "6", "range=-5..5", KD_ERROR_RANGE },
    { "label-count", "99999999999999999999", "wanted=a whole number", KD_ERROR_FORMAT },
    { "seed", "-1", "from 0", KD_ERROR_FORMAT },
    { "on", "perhaps", "true or false", KD_ERROR_FORMAT },
    { "mode", "medium", "slow | fast", KD_ERROR_FORMAT },
    { "mode", "", "slow | fast", KD_ERROR_FORMAT },
    { "parts", "left+top", "left+mid+right", KD_ERROR_FORMAT },
    { "parts", "left+", "left+mid+right", KD_ERROR_FORMAT },
  };
  Block a = { 0 };

  kd_params_init (table, &a);
  for (guint i = 0; i < G_N_ELEMENTS (bad); i++) {
    GError *error = NULL;
    ck_assert (!kd_param_set_string (kd_param_find (table, bad[i].name), &a, bad[i].value, "test", &error));
    kd_assert_error (error, bad[i].code, bad[i].part);
  }
  ck_assert (a.rate == 0.5);
  kd_params_clear (table, &a);
}
GST_END_TEST

GST_START_TEST (specifications)
{
  g_autofree gchar *name = NULL;
  g_auto (GStrv) pairs = NULL;
  GError *error = NULL;
  gchar *unused_name = NULL, **unused_pairs = NULL;

  ck_assert (kd_spec_parse ("mlp dims=64,10  note=\"a b\"", &name, &pairs, &error));
  ck_assert_str_eq (name, "mlp");
  ck_assert_str_eq (pairs[1], "64,10");
  ck_assert_str_eq (pairs[3], "a b");
  ck_assert_ptr_null (pairs[4]);
  ck_assert (!kd_spec_parse ("mlp dims", &unused_name, &unused_pairs, &error));
  kd_assert_error (error, KD_ERROR_FORMAT, "word=\"dims\"");
  ck_assert (!kd_spec_parse ("", &unused_name, &unused_pairs, &error));
  kd_assert_error (error, KD_ERROR_FORMAT, "empty");
  ck_assert (!kd_spec_parse ("dims=3 mlp", &unused_name, &unused_pairs, &error));
  kd_assert_error (error, KD_ERROR_FORMAT, "word=\"dims=3\"");
}
GST_END_TEST

GST_START_TEST (lists)
{
  GError *error = NULL;
  guint n = 0;
  g_autofree gint64 *numbers = kd_ints_parse ("64,32,10", 1, 100, "dims", &n, &error);

  ck_assert_uint_eq (n, 3);
  ck_assert_int_eq (numbers[2], 10);
  ck_assert (!kd_ints_parse ("64,,10", 1, 100, "dims", &n, &error));
  kd_assert_error (error, KD_ERROR_RANGE, "item=\"\"");
  ck_assert (!kd_ints_parse ("64,0", 1, 100, "dims", &n, &error));
  kd_assert_error (error, KD_ERROR_RANGE, "item=\"0\", range=1..100");
  ck_assert (!kd_ints_parse ("", 1, 100, "dims", &n, &error));
  kd_assert_error (error, KD_ERROR_FORMAT, "dims=\"\"");
}
GST_END_TEST

static Suite *
param_suite (void)
{
  Suite *suite = suite_create ("param");
  TCase *tcase = tcase_create ("param");

  suite_add_tcase (suite, tcase);
  tcase_add_test (tcase, defaults_and_copies);
  tcase_add_test (tcase, strings_set_members);
  tcase_add_test (tcase, bad_strings_are_refused);
  tcase_add_test (tcase, specifications);
  tcase_add_test (tcase, lists);
  return suite;
}

GST_CHECK_MAIN (param)
