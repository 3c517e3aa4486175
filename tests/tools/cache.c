/* kd cache from outside: merge, repair, prune, diff, export, and verify in a sandbox and against the teacher. */
#include "kd-command.h"

#define TEACHER "arch=\"mlp dims=64,32,10\" weights=t.safetensors"
#define CAPTURE "kd launch --quiet 'kdh5src location='$D' ! kdteacher " TEACHER " ! kdcachesink location="

static void
make_caches (void)
{
  kd_command_setup ();
  kd_expect (0, "kd launch --quiet 'kdh5src location='$D' epochs=2 shuffle=true ! kdstudent arch=\"mlp dims=64,32,10\" save=t.safetensors ! kdce ! kdtrain'", "");
  kd_expect (0, CAPTURE "c.h5 part-bytes=9000'", "");
}

GST_START_TEST (test_shards)
{
  kd_expect (0, "kd cache prune c.h5 a.h5 --range :700", "a.h5: 700 rows; parts:");
  kd_expect (0, "kd cache prune c.h5 b.h5 --range 600: --link", "linked");
  kd_expect (0, "kd cache merge m.h5 a.h5 b.h5", "m.h5: 1797 rows; parts:");
  kd_expect (0, "kd cache diff c.h5 m.h5", "same");
  kd_expect (0, "kd cache merge m.h5 a.h5 b.h5", "parts: none new");
  kd_expect (1, "kd cache merge m.h5 a.h5", "a cache is there already that has other rows");
  kd_expect (0, "kd cache merge moved.h5 a.h5 b.h5 --move && kd cache verify -q moved.h5 && test ! -e a.h5 && test ! -e b.h5.parts", "linked");
  kd_expect (0, "kd cache merge moved.h5 a.h5 b.h5 --move", "b.h5: not there; moved.h5 is complete"); /* the line that was killed in its last moment */
  kd_expect (1, "kd cache merge new.h5 a.h5 b.h5 --move", "Cannot open cache: path=\"a.h5\"");
  kd_expect (0, "kd cache prune c.h5 a.h5 --range :700 && kd cache prune c.h5 b.h5 --range 600: && kd cache merge e.h5 a.h5", "");
  kd_expect (1, "kd cache merge e.h5 b.h5", "kd cache merge --extend");
  kd_expect (0, "kd cache merge --extend --move e.h5 b.h5 && kd cache diff c.h5 e.h5 && test ! -e b.h5.parts", "same");
  /* What an error advises works: a field less, and they are alike. */
  kd_expect (0, "w() { kd launch -q \"kdh5src location=$D first=$1 count=50 ! kdteacher arch='mlp dims=64,256,10' $2 ! kdcachesink location=w$1.h5\"; }; w 0 && w 50 features=layer1", "");
  kd_expect (1, "kd cache merge w.h5 w0.h5 w50.h5", "field=teacher.features.layer1, path=\"w50.h5\", stored=float32:256, encoding=keep, other=\"w0.h5\", stored=none");
  kd_expect (0, "kd cache prune w50.h5 p50.h5 --drop teacher.features.layer1 && kd cache merge w.h5 w0.h5 p50.h5", "w.h5: 100 rows");
  kd_expect (2, "kd cache merge m.h5", "wanted an output and one or more caches");
  kd_expect (2, "kd cache prune c.h5 x.h5", "at least one of");
  kd_expect (2, "kd cache prune c.h5 x.h5 --range 5", "wanted A:B");
  kd_expect (2, "kd cache prune c.h5 x.h5 --range 9:5", "wanted A:B");
  kd_expect (2, "kd cache prune c.h5 x.h5 --views 1,a", "wanted integers");
  kd_expect (1, "kd cache prune c.h5 x.h5 --views 3", "Nothing left");
  kd_expect (1, "kd cache prune c.h5 x.h5 --ids none.h5", "none.h5");
  kd_expect (1, "kd cache diff c.h5 none.h5", "none.h5");
  kd_expect (2, "kd cache export c.h5 o.csv", "wanted=a name that ends in");
  kd_expect (0, "kd cache export c.h5 o.npz", "");
  kd_expect (1, "kd cache export c.h5 o.npz", "there already");
}
GST_END_TEST;

/* Wherever Ctrl-C comes, what is there is a cache, and the same line goes on. */
GST_START_TEST (test_interrupt)
{
  kd_expect (0, CAPTURE "many.h5 part-bytes=2000'", "");
  for (guint i = 1; i <= 8; i++) {
    g_autofree gchar *line = g_strdup_printf ("timeout --preserve-status -s INT 0.%02u kd cache merge m.h5 many.h5; code=$?; test $code = 130 -o $code = 0 && "
                                              "{ test ! -e m.h5.parts/manifest.json || kd cache verify -q m.h5; }",
        3 * i);
    kd_expect (0, line, "");
  }
  kd_expect (0, "kd cache merge m.h5 many.h5 && kd cache diff many.h5 m.h5", "same");
  kd_expect (0, "test -z \"$(find . -name '*.partial-*')\"", "");
}
GST_END_TEST;

GST_START_TEST (test_repair)
{
  kd_expect (0, "cp -r c.h5.parts r.h5.parts && cp c.h5 r.h5 && printf XY | dd of=r.h5.parts/00001.h5 bs=1 seek=40000 conv=notrunc && rm r.h5.parts/00002.h5", "");
  kd_expect (1, "kd cache verify -q r.h5", "r.h5.parts/0000");
  kd_expect (0, "kd cache repair --dry-run r.h5", "nothing was changed");
  kd_expect (1, "kd cache verify -q r.h5", "r.h5.parts/0000");
  kd_expect (0, "kd cache repair r.h5", "to be captured again:");
  kd_expect (0, "kd cache verify -q r.h5 && kd cache info r.h5", "resume=true");
  kd_expect (0, CAPTURE "r.h5 resume=true' && kd cache diff c.h5 r.h5", "same");
  kd_expect (1, "kd cache repair none.h5", "there is no folder");
}
GST_END_TEST;

GST_START_TEST (test_sandbox)
{
  kd_expect (0, "kd cache verify --sandbox c.h5", "good");
  kd_expect (0, "test -z \"$(kd cache verify --sandbox -q c.h5)\"", "");
  kd_expect (1, "kd cache verify --sandbox none.h5", "none.h5");
  kd_expect (0, "mkdir h.h5.parts && mkfifo h.h5.parts/manifest.json", ""); /* opening it never comes back */
  kd_expect (1, "kd cache verify --sandbox --seconds 1 h.h5", "made the reader hang: path=\"h.h5\", seconds=1");
  kd_expect (2, "kd cache verify --sandbox --seconds 0 c.h5", "wanted at least 1");
}
GST_END_TEST;

GST_START_TEST (test_teacher)
{
  const gchar *encodings[] = { "", "encoding=float16", "encoding=logprob8", "encoding=topk k=3", "encoding=sampled k=6 seed=9" };

  for (guint i = 0; i < G_N_ELEMENTS (encodings); i++) {
    g_autofree gchar *capture = g_strdup_printf ("rm -rf e.h5*; %se.h5 %s'", CAPTURE, encodings[i]);
    kd_expect (0, capture, "");
    kd_expect (0, "kd cache verify e.h5 --data $D --sample 40 --teacher 'kdteacher " TEACHER "'", "good: 40 rows computed again");
  }
  kd_expect (0, "kd cache verify c.h5 --data $D --sample 7 --seed 3 --teacher ''", "good: 7 rows computed again");
  kd_expect (1, "kd cache verify c.h5 --data $D --teacher 'kdteacher arch=\"mlp dims=64,32,10\" seed=5'", "another teacher");
  kd_expect (1, "kd cache verify c.h5 --data $D --teacher 'kdnosuch'", "Cannot run the teacher");
  /* Values that are not this teacher's, under its name. */
  kd_expect (0, "kd launch --quiet 'kdh5src location='$D' ! kdteacher arch=\"mlp dims=64,32,10\" seed=5 ! kdcachesink location=f.h5' && "
                "sed -i \"s/\\\"teacher\\\" : .*/$(grep '\"teacher\" :' c.h5.parts/manifest.json | sed 's/^ *//')/\" f.h5.parts/manifest.json && sed -i 2d f.h5.parts/manifest.json && kd cache verify f.h5",
      "good");
  kd_expect (1, "kd cache verify f.h5 --data $D --teacher 'kdteacher " TEACHER "'", "Cache is not what the teacher says");
  /* Classes and draws that are not this teacher's, under its name. */
  kd_expect (0, CAPTURE "k.h5 encoding=topk k=3' && " CAPTURE "s.h5 encoding=sampled k=6' && " CAPTURE "half.h5 encoding=sampled k=6 seed=9'", "");
  kd_expect (0, "for e in topk sampled; do kd launch --quiet 'kdh5src location='$D' ! kdteacher arch=\"mlp dims=64,32,10\" seed=5 ! kdcachesink k=6 location='$e'.h5 encoding='$e && "
                "sed -i \"s/\\\"teacher\\\" : .*/$(grep '\"teacher\" :' c.h5.parts/manifest.json | sed 's/^ *//')/\" $e.h5.parts/manifest.json && sed -i 2d $e.h5.parts/manifest.json || exit 1; done",
      "");
  kd_expect (1, "kd cache verify topk.h5 --data $D --teacher 'kdteacher " TEACHER "'", "Cache is not what the teacher says: path=\"topk.h5\", fields=3 of 3");
  ck_assert (strstr (kd_out, "teacher.topk.ids             WRONG"));
  kd_expect (1, "kd cache verify sampled.h5 --data $D --sample 1000 --teacher 'kdteacher " TEACHER "'", "teacher.sampled.ids          WRONG: the teacher would draw");
  /* The same draws again, other draws, and draws that say nothing about p alone. */
  kd_expect (0, "kd cache verify s.h5 --data $D --teacher 'kdteacher " TEACHER " ! kdlogitsample draws=6'", "teacher.sampled.ids          good: largest difference 0 at");
  kd_expect (1, "kd cache verify half.h5 --data $D --teacher 'kdteacher " TEACHER " ! kdlogitsample draws=6'", "teacher.sampled.ids          WRONG: largest difference");
  kd_expect (0, "kd launch --quiet 'kdh5src location='$D' ! kdteacher " TEACHER " ! kdlogitsample draws=6 proposal-power=0.5 ! kdcachesink location=r.h5'", "");
  kd_expect (1, "kd cache verify r.h5 --data $D --teacher ''", "no counts of 6 draws");
  /* Made at a temperature: its element says so. */
  kd_expect (0, "kd launch --quiet 'kdh5src location='$D' ! kdteacher " TEACHER " ! kdlogittopk k=3 temperature=4 ! kdcachesink location=warm.h5'", "");
  kd_expect (0, "kd cache verify warm.h5 --data $D --teacher 'kdteacher " TEACHER " ! kdlogittopk k=3 temperature=4'", "good: 100 rows computed again");
  kd_expect (1, "kd cache verify warm.h5 --data $D --teacher 'kdteacher " TEACHER " ! kdlogittopk k=3'", "teacher.topk.logprobs        WRONG");
  kd_expect (0, "kd cache pack s.h5 p.h5 --pack-index && kd cache verify p.h5 --data $D --teacher ''", "good: 100 rows computed again");
  ck_assert (!strstr (kd_out, "id 0) with probability 10^0.0")); /* -1 stands first there, and is no mask */
  kd_expect (2, "kd cache verify c.h5 --teacher kdteacher", "go together");
  kd_expect (2, "kd cache verify c.h5 --data $D --teacher kdteacher --sandbox", "not with --sandbox");
}
GST_END_TEST;

/* Four rows of two classes, three right with 0.9: numbers that are known without the program. */
GST_START_TEST (test_stats)
{
  gint64 dims[] = { 4, 2 };
  g_autoptr (KdTensor) ids = kd_tensor_new (KD_INT64, 1, dims), label = kd_tensor_new_zero (KD_INT64, 1, dims), logits = kd_tensor_new (KD_FLOAT32, 2, dims);
  const gchar *names[] = { "sample.id", "label", "teacher.logits" };
  KdTensor *tensors[] = { ids, label, logits };
  g_autofree gchar *path = g_build_filename (kd_folder, "x.h5", NULL), *page = NULL;

  for (gint64 i = 0; i < 4; i++) {
    ((gint64 *) ids->data)[i] = 10 * i;
    ((gfloat *) logits->data)[2 * i] = logf (9) + 3;
    ((gfloat *) logits->data)[2 * i + 1] = 3;
  }
  ((gint64 *) label->data)[3] = 1;
  kd_test_write (path, 3, names, tensors);
  kd_expect (0, "kd launch --quiet 'kdh5src location=x.h5 ! kdcachesink location=xt.h5'", "");
  kd_expect (0, "kd cache stats xt.h5 --labels x.h5", "xt.h5.html");
  page = kd_contents ("xt.h5.html");
  /* confidence, entropy, labelled rows, accuracy, negative log-likelihood, calibration error */
  ck_assert_msg (strstr (page, "<td class=\"n\">0.9</td><td class=\"n\">0.3251</td><td class=\"n\">4</td><td class=\"n\">0.75</td><td class=\"n\">0.6547</td><td class=\"n\">0.15</td>"), "%s", page);
  ck_assert (strstr (page, "0: 4"));                            /* rows of view 0 */
  ck_assert (!strstr (page, "http") && !strstr (page, "src=")); /* nothing outside it */
  kd_expect (0, "kd cache stats xt.h5 c.h5 --output two.html", "two.html");
  ck_assert (strstr (g_strdelimit (page, "\n", ' '), "</html>"));
  g_clear_pointer (&page, g_free);
  page = kd_contents ("two.html");
  ck_assert (strstr (page, "Agreement") && !strstr (page, "Accuracy"));
  kd_expect (0, "kd cache prune c.h5 half.h5 --range :900 && kd cache stats c.h5 half.h5 -o h.html && grep -o '100.00 % of 900' h.html", "100.00 % of 900");
  kd_expect (0, CAPTURE "k.h5 encoding=topk k=4' && kd cache stats k.h5 c.h5 -o k.html && grep -o '100.00 % of 1797' k.html", "100.00 %");
  kd_expect (0, "grep -o '>share of rows</text>' k.html | wc -l; grep -o 'entropy of a row, nats' k.html; grep -c 'model=' k.html || true", "2\nentropy of a row, nats\n0"); /* axes; a teacher without what it leaves empty */
  kd_expect (0, "kd launch --quiet 'kdh5src location='$D' ! kdcachesink fields=input location=i.h5' && kd cache stats i.h5", "i.h5.html");                                   /* nobody's opinion in it */
  kd_expect (1, "kd cache stats c.h5 --field teacher.x", "field=teacher.x");
  kd_expect (1, "kd cache stats c.h5 --labels none.h5", "none.h5");
  kd_expect (2, "kd cache stats", "wanted one to eight caches");
}
GST_END_TEST;

static Suite *
cache_command_suite (void)
{
  Suite *s = suite_create (KD_TEST_NAME);
  TCase *t = tcase_create ("kd cache");

  tcase_add_checked_fixture (t, make_caches, kd_command_teardown);
  tcase_set_timeout (t, 240);
  tcase_add_test (t, test_shards);
  tcase_add_test (t, test_interrupt);
  tcase_add_test (t, test_repair);
  tcase_add_test (t, test_sandbox);
  tcase_add_test (t, test_teacher);
  tcase_add_test (t, test_stats);
  suite_add_tcase (s, t);
  return s;
}

GST_CHECK_MAIN (cache_command)
