/* kd data import of CSV and JSON lines: what is read, and every way a file can be wrong. */
#include "data-support.h"

GST_START_TEST (test_csv)
{
  write_text ("a.csv", "width,height,species\n1,2.5,cat\n-3e1,4,dog\n5,6,cat\n");
  expect_done ("import a.csv --label species -o a.h5");
  ck_assert_str_eq (out_text, "a.h5: 3 rows from a.csv (csv), 2 classes\n");
  expect_layout ("a.h5", "input=float32:2 label=int64 sample.id=int64");
  expect_numbers ("a.h5", "input", NUMBERS (1, 2.5, -30, 4, 5, 6));
  expect_numbers ("a.h5", "label", NUMBERS (0, 1, 0));
  expect_numbers ("a.h5", "sample.id", NUMBERS (0, 1, 2));
  expect_attribute ("a.h5", "kd.classes", "[\"cat\",\"dog\"]");
}
GST_END_TEST

/* RFC 4180: quotes, doubled quotes, delimiters and line ends inside cells, CRLF, no end of the last line. */
GST_START_TEST (test_csv_quotes)
{
  write_text ("q.csv", "\xef\xbb\xbfn;say\r\n1;\"a; \"\"b\"\"\r\nc\"\r\n2;plain");
  expect_done ("import q.csv -o q.h5");
  expect_layout ("q.h5", "input=float32:1 sample.id=int64 say=utf8");
  expect_numbers ("q.h5", "input", NUMBERS (1, 2));
  expect_text ("q.h5", "say", 0, "a; \"b\"\r\nc");
  expect_text ("q.h5", "say", 1, "plain");
}
GST_END_TEST

GST_START_TEST (test_csv_choices)
{
  write_text ("n.csv", "10\t0.5\t\n2\t1.5\t7\n"); /* no header, tabs, an empty cell */
  expect_done ("import n.csv --label 1 --missing -1 -o n.h5");
  expect_numbers ("n.h5", "label", NUMBERS (10, 2)); /* numbers stay what they are */
  expect_numbers ("n.h5", "input", NUMBERS (0.5, -1, 1.5, 7));
  expect_done ("import n.csv --label 1 --classes --missing 0 -o c.h5");
  expect_numbers ("c.h5", "label", NUMBERS (1, 0));
  expect_attribute ("c.h5", "kd.classes", "[\"2\",\"10\"]"); /* sorted as numbers */
  write_text ("t.csv", "Good Text,y\na,b\n");
  expect_done ("import t.csv --header yes --rename y=other -o t.h5");
  expect_layout ("t.h5", "good_text=utf8 other=utf8 sample.id=int64");
  expect_done ("import t.csv --header yes --only y -o o.h5");
  expect_layout ("o.h5", "sample.id=int64 y=utf8");
  shell ("gzip -k n.csv");
  expect_done ("import n.csv.gz --format csv --missing 0 -o z.h5");
  expect_numbers ("z.h5", "sample.id", NUMBERS (0, 1));
}
GST_END_TEST

/* More rows than a batch of the writer holds, with class names that come late. */
GST_START_TEST (test_csv_many)
{
  g_autoptr (GString) text = g_string_new ("x,label\n");
  g_autoptr (KdTensor) input = NULL, label = NULL;

  for (gint i = 0; i < 10000; i++)
    g_string_append_printf (text, "%d,%s\n", i, i < 9000 ? "zebra" : "ant");
  write_text ("m.csv", text->str);
  expect_done ("import m.csv -o m.h5"); /* a column called label is the label */
  input = field_of ("m.h5", "input");
  label = field_of ("m.h5", "label");
  ck_assert_int_eq (input->dims[0], 10000);
  for (gint i = 0; i < 10000; i++) {
    ck_assert_int_eq ((gint) ((gfloat *) input->data)[i], i);
    ck_assert_int_eq (((gint64 *) label->data)[i], i < 9000);
  }
}
GST_END_TEST

GST_START_TEST (test_csv_bad_rows)
{
  write_text ("a.csv", "x,y\n1,2\n3,4,5\n");
  expect_failure ("import a.csv -o a.h5", 1, "kd data import: Row of another length: path=\"a.csv\", line=3, cells=3, wanted=2");
  write_text ("b.csv", "x,y\n1,2\n3,four\n");
  expect_failure ("import b.csv -o b.h5", 1, "Not a number: path=\"b.csv\", line=3, column=2 (y), value=\"four\"");
  write_text ("c.csv", "x,y\n1,2\n,4\n");
  expect_failure ("import c.csv -o c.h5", 1, "line=3, column=1 (x), value=\"\"; the column began as numbers: correct the cell, or give --missing "
                                             "NUMBER");
  write_text ("d.csv", "x,y\n1,2\n3,nan\n");
  expect_failure ("import d.csv -o d.h5", 1, "value=\"nan\"");
  write_text ("e.csv", "x,y\n1,2\n3,1e300\n"); /* beyond float32 */
  expect_failure ("import e.csv -o e.h5", 1, "value=\"1e300\"");
  write_text ("f.csv", "x,y\n\"1\",2\n\"3,4\n5,6\n");
  expect_failure ("import f.csv -o f.h5", 1, "Quote not closed: path=\"f.csv\", line=3, column=1");
  write_text ("g.csv", "x,y\n\"1\"2,3\n");
  expect_failure ("import g.csv -o g.h5", 1, "Text after a closing quote: path=\"g.csv\", line=2, column=1");
  write_file ("h.csv", "x,y\n1,\0\n", 8);
  expect_failure ("import h.csv -o h.h5", 1, "Zero byte in text: path=\"h.csv\", line=2, column=2");
  write_text ("i.csv", "x,y\n1,2\n3,\xff\n");
  expect_failure ("import i.csv -o i.h5", 1, "Not UTF-8 text: path=\"i.csv\", line=3, column=2");
}
GST_END_TEST

GST_START_TEST (test_csv_bad_tables)
{
  write_text ("a.csv", "");
  expect_failure ("import a.csv -o a.h5", 1, "Empty file: path=\"a.csv\"");
  write_text ("b.csv", "x,y\n");
  expect_failure ("import b.csv --header yes -o b.h5", 1, "Nothing to write: rows=0, output=\"b.h5\"");
  write_text ("c.csv", "a,b\nc,d\n");
  expect_failure ("import c.csv -o c.h5", 1, "Cannot tell whether the first line names the columns: path=\"c.csv\"");
  write_text ("d.csv", "x,kind\n1,0\n2,cat\n");
  expect_failure ("import d.csv --label kind -o d.h5", 1,
      "Not a label: path=\"d.csv\", line=3, column=2 (kind), value=\"cat\", wanted=0, 1, 2 ...; for names of classes give --classes");
  expect_failure ("import d.csv --label species -o d.h5", 1, "No such column: --label=species, path=\"d.csv\", columns=2 (x, kind)");
  write_text ("e.csv", "x,kind\n1,cat\n2,\n");
  expect_failure ("import e.csv --label kind -o e.h5", 1, "line=3, column=2 (kind), value=\"\", wanted=the name of a class");
  write_text ("f.csv", "a b,a.b?,x\nt,u,1\n");
  expect_failure ("import f.csv --rename 'a b=t' --rename 'a.b?=t' --header yes -o f.h5", 1, "Two columns for one field: field=t; use --rename "
                                                                                             "OLD=NEW or --only");
  expect_failure ("import nothere.csv -o g.h5", 1, "Cannot open: path=\"nothere.csv\"");
  expect_failure ("import d.csv -o /nowhere/x.h5", 1, "/nowhere/x.h5");
}
GST_END_TEST

/* A failed import leaves what was there. */
GST_START_TEST (test_old_output_stays)
{
  write_text ("a.csv", "x\n1\n");
  write_text ("b.csv", "x\n1\nbad\n");
  expect_done ("import a.csv -o a.h5");
  expect_failure ("import b.csv -o a.h5", 1, "value=\"bad\"");
  expect_numbers ("a.h5", "input", NUMBERS (1));
}
GST_END_TEST

GST_START_TEST (test_jsonl)
{
  write_text ("a.jsonl", "{\"text\":\"h\\u00e4\",\"n\":3,\"x\":0.5,\"ok\":true,\"m\":[[1,2],[3,4]],\"kind\":\"b\"}\n"
                         "\n"
                         "{\"kind\":\"a\",\"text\":\"\",\"n\":-4,\"x\":2,\"ok\":false,\"m\":[[5,6],[7,8.5]]}\r\n");
  expect_done ("import a.jsonl --label kind --rename text=prompt --field n=int32 -o a.h5");
  expect_layout ("a.h5", "label=int64 m=float32:2x2 n=int32 ok=bool prompt=utf8 sample.id=int64 x=float32");
  expect_numbers ("a.h5", "m", NUMBERS (1, 2, 3, 4, 5, 6, 7, 8.5));
  expect_numbers ("a.h5", "n", NUMBERS (3, -4));
  expect_numbers ("a.h5", "x", NUMBERS (0.5, 2));
  expect_numbers ("a.h5", "ok", NUMBERS (1, 0));
  expect_numbers ("a.h5", "label", NUMBERS (1, 0));
  expect_text ("a.h5", "prompt", 0, "h\xc3\xa4");
  expect_text ("a.h5", "prompt", 1, "");
  expect_done ("import a.jsonl --only x,n -o b.h5");
  expect_layout ("b.h5", "n=int64 sample.id=int64 x=float32");
}
GST_END_TEST

static void
bad_second_line (const gchar *first, const gchar *second, const gchar *part)
{
  g_autofree gchar *text = g_strdup_printf ("%s\n%s\n", first, second);

  write_text ("bad.jsonl", text);
  expect_failure ("import bad.jsonl -o bad.h5", 1, part);
}

GST_START_TEST (test_jsonl_bad)
{
  g_autofree gchar *deep = g_strnfill (100000, '[');

  bad_second_line ("{\"a\":1}", "{\"a\":1", "Not JSON: path=\"bad.jsonl\", line=2");
  bad_second_line ("{\"a\":1}", "[1]", "Row of another shape: path=\"bad.jsonl\", line=2, came=an array of 1, wanted=an object as the first line");
  bad_second_line ("{\"a\":1}", "{\"b\":1}", "Key missing: path=\"bad.jsonl\", line=2, key=a");
  bad_second_line ("{\"a\":1}", "{\"a\":\"x\"}", "Value of another type: path=\"bad.jsonl\", line=2, key=a, came=text; wanted int64");
  bad_second_line ("{\"a\":1}", "{\"a\":1.5}", "Not a whole number: path=\"bad.jsonl\", line=2, key=a, came=1.5; the first line has a whole "
                                               "number: give --field a=float32");
  bad_second_line ("{\"a\":\"x\"}", "{\"a\":null}", "line=2, key=a, came=null; wanted text");
  bad_second_line ("{\"a\":[1,2]}", "{\"a\":[1]}", "Array of another shape: path=\"bad.jsonl\", line=2, key=a, came=1 elements; wanted 2 elements "
                                                   "on axis 1");
  bad_second_line ("{\"a\":1.5}", "{\"a\":1e300}", "Number too large: path=\"bad.jsonl\", line=2, key=a");
  bad_second_line ("{\"a\":{}}", "{}", "Value of no use: path=\"bad.jsonl\", line=1, key=a, came=an object");
  bad_second_line ("{\"label\":1}", "{\"label\":-1}", "Negative label: path=\"bad.jsonl\", line=2, key=label, came=-1");
  bad_second_line ("{\"a\":1}", deep, "Not JSON: path=\"bad.jsonl\", line=2, came=nested deeper than 64 levels");
  bad_second_line ("{\"a\":1}", "{\"a\":2}{\"a\":3}", "line=2, came=a second value after the first; every line must be one whole value");
  bad_second_line ("{\"a\":1}", "{\"a\":99999999999999999999}", "line=2, came=a whole number beyond 64 bits");
  bad_second_line ("{\"a\":1}", "{\"a\":\"\xff\"}", "Not UTF-8 text: path=\"bad.jsonl\", line=2");
  write_text ("k.jsonl", "{\"a\":1}\n");
  expect_failure ("import k.jsonl --label b -o k.h5", 1, "No such key: path=\"k.jsonl\", line=1, key=b");
  expect_failure ("import k.jsonl --field a=uint8 --only z -o k.h5", 1, "Nothing to read");
  write_text ("r.jsonl", "{\"a\":300}\n");
  expect_failure ("import r.jsonl --field a=uint8 -o r.h5", 1, "Number out of range: path=\"r.jsonl\", line=1, key=a, came=300; it does not fit "
                                                               "uint8");
}
GST_END_TEST

/* As CLINC-150 is: a member for each split, a row is a pair. */
GST_START_TEST (test_json_pairs)
{
  write_text ("a.json", "{\"about\": {\"n\": [1]}, \"train\": [[\"h\\u00e4\", \"b\"],\n [\"\", \"a\"]], \"test\": [[\"z\", \"b\"], [\"\xe4\xbd\xa0\", \"c\"]]}\n");
  expect_done ("import a.json --split train --label 1 --rename 0=text -o a.h5");
  ck_assert_str_eq (out_text, "a.h5: 2 rows from a.json (json), 2 classes\n");
  expect_layout ("a.h5", "label=int64 sample.id=int64 text=utf8");
  expect_numbers ("a.h5", "label", NUMBERS (1, 0));
  expect_numbers ("a.h5", "sample.id", NUMBERS (0, 1));
  expect_attribute ("a.h5", "kd.classes", "[\"a\",\"b\"]");
  expect_text ("a.h5", "text", 0, "h\xc3\xa4");
  expect_text ("a.h5", "text", 1, "");
  expect_done ("import a.json --split test --label 1 --only 0 --rename 0=text -o b.h5");
  expect_text ("b.h5", "text", 1, "\xe4\xbd\xa0");
  expect_numbers ("b.h5", "label", NUMBERS (0, 1));
  expect_attribute ("b.h5", "kd.classes", "[\"b\",\"c\"]"); /* of the rows read, not of the document */
  shell ("gzip -k a.json");
  expect_done ("import a.json.gz --split train --rename 0=x --rename 1=y -o z.h5");
  expect_layout ("z.h5", "sample.id=int64 x=utf8 y=utf8");
}
GST_END_TEST

/* The document is the array; rows are objects with the types of JSON lines. */
GST_START_TEST (test_json_objects)
{
  write_text ("o.json", "\xef\xbb\xbf[{\"n\":3,\"x\":0.5,\"ok\":true,\"m\":[[1,2],[3,4]]},\r\n{\"ok\":false,\"x\":2e-01,\"n\":-4,\"m\":[[5,6],[7,8.5]],\"more\":null}]");
  expect_done ("import o.json --field n=int32 -o o.h5");
  expect_layout ("o.h5", "m=float32:2x2 n=int32 ok=bool sample.id=int64 x=float32");
  expect_numbers ("o.h5", "m", NUMBERS (1, 2, 3, 4, 5, 6, 7, 8.5));
  expect_numbers ("o.h5", "n", NUMBERS (3, -4));
  expect_numbers ("o.h5", "x", NUMBERS (0.5, 0.2));
  expect_numbers ("o.h5", "ok", NUMBERS (1, 0));
  write_text ("p.txt", "[[[1.5, 2], 7], [[3, 4], 8]]");
  expect_done ("import p.txt --format json --label 1 --rename 0=input -o p.h5");
  expect_layout ("p.h5", "input=float32:2 label=int64 sample.id=int64");
  expect_numbers ("p.h5", "input", NUMBERS (1.5, 2, 3, 4));
  expect_numbers ("p.h5", "label", NUMBERS (7, 8));
  write_text ("l.jsonl", "[\"a\",1]\n\n[\"b\",2]\n"); /* lines may be arrays too */
  expect_done ("import l.jsonl --rename 0=text --only 0 -o l.h5");
  expect_layout ("l.h5", "sample.id=int64 text=utf8");
  expect_text ("l.h5", "text", 1, "b");
}
GST_END_TEST

static void
bad_document (const gchar *text, const gchar *options, const gchar *part)
{
  g_autofree gchar *arguments = g_strdup_printf ("import bad.json %s -o bad.h5", options);

  write_text ("bad.json", text);
  expect_failure (arguments, 1, part);
}

GST_START_TEST (test_json_bad_documents)
{
  const gchar *splits = "{\"train\":[[1]],\"val\":[],\"about\":{},\"test\":[[2]]}";
  g_autofree gchar *deep = g_strnfill (100000, '['), *padding = g_strnfill (1 << 20, ' ');
  g_autoptr (GString) many = g_string_new ("{");

  bad_document ("text", "", "Not JSON: path=\"bad.json\", came=<data>:1:");
  bad_document ("[[\"a\",\"b\"],[\"c\"", "", "Not JSON: path=\"bad.json\", came=<data>:1:");
  bad_document ("{\"a\":1}\n{\"a\":2}\n", "", "came=a second value after the first; is it cut off? a file of an object a line is --format=jsonl");
  bad_document (deep, "", "Not JSON: path=\"bad.json\", came=nested deeper than 64 levels");
  bad_document ("[[\"a\xff\"]]", "", "Not UTF-8 text: path=\"bad.json\", byte=4");
  bad_document ("", "", "No rows: path=\"bad.json\", came=an empty file");
  bad_document ("7", "", "No rows: path=\"bad.json\", came=a whole number; wanted an array of rows");
  bad_document ("[]", "", "No rows: path=\"bad.json\", came=an empty array");
  bad_document ("{\"a\":{}}", "--split a", "No rows: path=\"bad.json\", split=\"a\", came=an object without arrays");
  bad_document (splits, "", "No rows: path=\"bad.json\", came=an object, arrays=\"train\", \"val\", \"test\"; choose one with --split NAME");
  bad_document (splits, "--split trian",
      "No such split: path=\"bad.json\", split=\"trian\", arrays=\"train\", \"val\", \"test\"; did you mean \"train\"?\n");
  bad_document (splits, "--split elsewhere", "split=\"elsewhere\", arrays=\"train\", \"val\", \"test\"\n");
  bad_document (splits, "--split about", "Split is no array: path=\"bad.json\", split=\"about\", came=an object, arrays=\"train\"");
  bad_document (splits, "--split val", "No rows: path=\"bad.json\", split=\"val\", came=an empty array");
  bad_document ("[[1]]", "--split train", "No such split: path=\"bad.json\", split=\"train\", came=an array; its elements are the rows");
  for (gint i = 0; i < 30; i++)
    g_string_append_printf (many, "%s\"a\\n%d\":[]", i ? "," : "", i);
  g_string_append_c (many, '}');
  bad_document (many->str, "", "\"a\\n0\", \"a\\n1\"");
  ck_assert (strstr (err_text, "\"a\\n19\" and 10 more; choose one") != NULL);
  write_text ("mb", padding);
  shell ("for i in $(seq 257); do cat mb; done | gzip -1 > huge.json.gz");
  expect_failure ("import huge.json.gz -o x.h5", 1, "Document too large: path=\"huge.json.gz\", most=268435456 bytes");
}
GST_END_TEST

GST_START_TEST (test_json_bad_rows)
{
  g_autoptr (GString) wide = g_string_new ("[[0");

  bad_document ("{\"t\":[[\"a\",1],[\"b\"]]}", "--split t --rename 0=x",
      "Row of another shape: path=\"bad.json\", split=\"t\", row=1, came=an array of 1, wanted=an array of 2 as the first row");
  bad_document ("[[1],{\"0\":1}]", "", "row=1, came=an object, wanted=an array of 1 as the first row");
  bad_document ("[{\"a\":1},[1]]", "", "row=1, came=an array of 1, wanted=an object as the first row");
  bad_document ("[1,2]", "", "Neither an object nor an array: path=\"bad.json\", row=0, came=a whole number; every row must be");
  bad_document ("[[1],null]", "", "Neither an object nor an array: path=\"bad.json\", row=1, came=null");
  bad_document ("[[\"a\",[\"b\"]]]", "", "Array of no numbers: path=\"bad.json\", row=0, key=1, came=text");
  bad_document ("[[[1,2]],[[1,[2]]]]", "", "Value of another type: path=\"bad.json\", row=1, key=0, came=an array; wanted float32, as in the first row");
  bad_document ("[[[1,2]],[[1]]]", "", "row=1, key=0, came=1 elements; wanted 2 elements on axis 1, as in the first row");
  bad_document ("[[\"a\"],[5]]", "", "row=1, key=0, came=a whole number; wanted text, as in the first row");
  bad_document ("[[1],[1.5]]", "", "key=0, came=1.5; the first row has a whole number: give --field 0=float32");
  bad_document ("[{\"a\":1},{\"b\":1}]", "", "Key missing: path=\"bad.json\", row=1, key=a, came=nothing; wanted a value (or leave it out with --only)");
  bad_document ("[[\"a\",\"b\"]]", "--label 2", "No such key: path=\"bad.json\", row=0, key=2, came=nothing; --label must name a key; an array's are its "
                                                "places from 0");
  bad_document ("[[\"a\",\"b\"],[\"a\",null]]", "--label 1", "Value of another type: path=\"bad.json\", row=1, key=1, came=null; wanted text");
  bad_document ("[[]]", "", "Nothing to read: path=\"bad.json\", row=0");
  for (gint i = 0; i < 65536; i++)
    g_string_append (wide, ",0");
  g_string_append (wide, "]]");
  bad_document (wide->str, "", "Too many keys: path=\"bad.json\", row=0, key=(all), came=65537 keys");
}
GST_END_TEST

GST_START_TEST (test_usage)
{
  write_text ("a.csv", "x\n1\n");
  expect_failure ("import a.csv", 2, "no output given: -o OUT.h5");
  expect_failure ("import -o a.h5", 2, "no INPUT given");
  expect_failure ("import a.csv b.csv -o a.h5", 2, "more than one INPUT");
  expect_failure ("import a.csv -o a.h5 --format exe", 2, "--format=exe is none of: npy, npz, idx, images, json, jsonl, csv");
  expect_failure ("import a.csv -o a.h5 --header perhaps", 2, "--header=perhaps");
  expect_failure ("import a.csv -o a.h5 --missing x", 2, "--missing=x is no number");
  expect_failure ("import a.csv -o a.h5 --delimiter ab", 2, "--delimiter=ab");
  expect_failure ("import a.csv -o a.h5 --size 0x3", 2, "--size=0x3");
  expect_failure ("import a.csv -o a.h5 --field a=float31", 2, "--field a=float31");
  expect_failure ("import a.csv -o a.h5 --rename a=B", 2, "--rename a=B");
  expect_failure ("import a.csv -o ./a.csv", 2, "INPUT and OUT.h5 are one file: ./a.csv");
  expect_failure ("import a.csv -o a.h5 --nonsense", 2, "--nonsense");
  expect_failure ("improt a.csv", 2, "there is no command improt; did you mean import?");
  expect_done ("import --help");
  ck_assert (strstr (out_text, "npz") != NULL);
  expect_done ("--help");
  write_text ("x.bin", "what is this");
  expect_failure ("import x.bin -o a.h5", 1, "Cannot tell the format: path=\"x.bin\"; give --format, one of:");
}
GST_END_TEST

static Suite *
data_text_suite (void)
{
  Suite *suite = suite_create ("data-text");
  TCase *tcase = tcase_create ("all");

  suite_add_tcase (suite, tcase);
  tcase_add_checked_fixture (tcase, make_folder, remove_folder);
  tcase_add_test (tcase, test_csv);
  tcase_add_test (tcase, test_csv_quotes);
  tcase_add_test (tcase, test_csv_choices);
  tcase_add_test (tcase, test_csv_many);
  tcase_add_test (tcase, test_csv_bad_rows);
  tcase_add_test (tcase, test_csv_bad_tables);
  tcase_add_test (tcase, test_old_output_stays);
  tcase_add_test (tcase, test_jsonl);
  tcase_add_test (tcase, test_jsonl_bad);
  tcase_add_test (tcase, test_json_pairs);
  tcase_add_test (tcase, test_json_objects);
  tcase_add_test (tcase, test_json_bad_documents);
  tcase_add_test (tcase, test_json_bad_rows);
  tcase_add_test (tcase, test_usage);
  return suite;
}

GST_CHECK_MAIN (data_text);
