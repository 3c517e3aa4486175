/* kd cache estimate, info and pack with encodings, from outside. */
#include "kd-command.h"

#define CAPTURE "kd launch -q \"kdh5src location=$D count=200 ! kdteacher arch='mlp dims=64,10' ! kdcachesink location=t.h5 "

GST_START_TEST (test_estimate)
{
  kd_expect (0, "kd cache estimate teacher.logits=float32:1000 --rows 10 -k 20", "encoding=\n");
  ck_assert (strstr (kd_out, "        4016 "));                                 /* float32: 4000 and the key */
  ck_assert (strstr (kd_out, "        2016 "));                                 /* float16 */
  ck_assert (strstr (kd_out, "        1020 "));                                 /* logprob8: 1000, scale 4, key 16 */
  ck_assert (strstr (kd_out, "         100 ") && strstr (kd_out, "topk k=20")); /* 20 (2 + 2) + 4 + 16 */
  ck_assert (strstr (kd_out, "sampled k=20"));
  kd_expect (0, "kd cache estimate teacher.features.last=float32:10 --rows 10", "bfloat16");
  ck_assert (!strstr (kd_out, "topk"));
  kd_expect (2, "kd cache estimate teacher.logits=float32:10 --rows 10 -k 0", "--k=0, wanted 1 to 1048576");
}
GST_END_TEST;

GST_START_TEST (test_info)
{
  kd_expect (0, CAPTURE "encoding=topk k=3\"", "");
  kd_expect (0, "kd cache info t.h5", "teacher.topk.ids index16");
  ck_assert (strstr (kd_out, "teacher.topk.logprobs float16, off by at most "));
  ck_assert (strstr (kd_out, "probability left out at most "));
  ck_assert (strstr (kd_out, "fields         teacher.topk.ids=int64:3 teacher.topk.logprobs=float32:3 teacher.topk.lse=float32"));
}
GST_END_TEST;

GST_START_TEST (test_pack_index)
{
  kd_expect (0, CAPTURE "encoding=topk k=3\"", "");
  kd_expect (0, "kd cache pack t.h5 p.h5 --filter deflate --pack-index", "p.h5: 200 rows");
  kd_expect (0, "kd cache info p.h5", "teacher.topk.ids packed-index");
  kd_expect (0, "kd cache verify p.h5", "good");
  kd_expect (1, "kd cache pack p.h5 q.h5 --pack-index", "No ids to pack: path=\"p.h5\"");
  kd_expect (0, "kd launch -q \"kdh5src location=$D count=200 ! kdcache location=p.h5 check-identity=false ! kdh5sink location=o.h5\"", "");
  kd_expect (0, "kd data info o.h5", "teacher.topk.ids");
}
GST_END_TEST;

static Suite *
encodings_suite (void)
{
  Suite *s = suite_create (KD_TEST_NAME);
  TCase *t = tcase_create ("encodings");

  tcase_add_checked_fixture (t, kd_command_setup, kd_command_teardown);
  tcase_set_timeout (t, 240);
  tcase_add_test (t, test_estimate);
  tcase_add_test (t, test_info);
  tcase_add_test (t, test_pack_index);
  suite_add_tcase (s, t);
  return s;
}

GST_CHECK_MAIN (encodings)
