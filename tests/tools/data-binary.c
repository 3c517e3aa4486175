/* kd data import of IDX, numpy files and images: honest files, cut ones, lying ones. */
#include "data-support.h"

static void
write_idx (const gchar *name, guint8 type, guint rank, const guint32 *sizes, gconstpointer data, gsize n)
{
  g_autoptr (GByteArray) bytes = g_byte_array_new ();
  guint8 magic[4] = { 0, 0, type, (guint8) rank };

  g_byte_array_append (bytes, magic, 4);
  for (guint i = 0; i < rank; i++) {
    guint32 size = GUINT32_TO_BE (sizes[i]);
    g_byte_array_append (bytes, (const guint8 *) &size, 4);
  }
  g_byte_array_append (bytes, data, (guint) n);
  write_file (name, bytes->data, bytes->len);
}

#define SIZES(...)                                          \
  G_N_ELEMENTS (((guint32[]) { __VA_ARGS__ })), (guint32[]) \
  {                                                         \
    __VA_ARGS__                                             \
  }

GST_START_TEST (test_idx)
{
  static const guint8 pixels[] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 255 }, floats[] = { 0x3f, 0xc0, 0, 0, 0xc0, 0x20, 0, 0 };

  write_idx ("images-idx3-ubyte", 0x08, SIZES (2, 2, 3), pixels, 12);
  write_idx ("labels-idx1-ubyte", 0x08, SIZES (2), "\x07\x00", 2);
  expect_done ("import images-idx3-ubyte --labels labels-idx1-ubyte -o a.h5");
  expect_layout ("a.h5", "input=uint8:1x2x3 label=int64 sample.id=int64");
  expect_numbers ("a.h5", "input", NUMBERS (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 255));
  expect_numbers ("a.h5", "label", NUMBERS (7, 0));
  shell ("gzip images-idx3-ubyte labels-idx1-ubyte");
  expect_done ("import images-idx3-ubyte.gz --labels labels-idx1-ubyte.gz -o b.h5");
  ck_assert_int_eq (shell ("cmp a.h5 b.h5 || true"), 0);
  expect_numbers ("b.h5", "label", NUMBERS (7, 0));
  write_idx ("f", 0x0d, SIZES (2, 1), floats, 8);
  expect_done ("import f -o f.h5");
  expect_numbers ("f.h5", "input", NUMBERS (1.5, -2.5));
  write_idx ("s", 0x0b, SIZES (1, 2), "\xff\xfe\x01\x00", 4);
  expect_done ("import s -o s.h5");
  expect_numbers ("s.h5", "input", NUMBERS (-2, 256));
}
GST_END_TEST

GST_START_TEST (test_idx_bad)
{
  static const guint8 data[64] = { 0 };

  write_idx ("cut", 0x08, SIZES (2, 2, 3), data, 11);
  expect_failure ("import cut -o x.h5", 1, "IDX file is cut off: path=\"cut\", rows declared=2, bytes wanted=28, bytes there=27");
  write_idx ("long", 0x08, SIZES (2, 2, 3), data, 13);
  expect_failure ("import long -o x.h5", 1, "IDX file is longer than its header says");
  /* sizes that no memory holds are told without asking for it */
  write_idx ("huge", 0x0e, SIZES (0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff), data, 8);
  expect_failure ("import huge -o x.h5", 1, "IDX header declares an impossible size: path=\"huge\"");
  shell ("gzip -k huge cut long");
  expect_failure ("import huge.gz -o x.h5", 1, "IDX header declares an impossible size");
  expect_failure ("import cut.gz -o x.h5", 1, "File ends too early: path=\"cut.gz\", at=row 0 of 2, bytes wanted=12, bytes there=11");
  expect_failure ("import long.gz -o x.h5", 1, "Bytes left over: path=\"long.gz\"");
  shell ("head -c 30 cut.gz > half.gz");
  expect_failure ("import half.gz --format idx -o x.h5", 1, "half.gz");
  write_idx ("zero", 0x08, SIZES (2, 0, 3), data, 0);
  expect_failure ("import zero -o x.h5", 1, "impossible size");
  write_idx ("type", 0x0a, SIZES (1), data, 1);
  expect_failure ("import type --format idx -o x.h5", 1, "Unknown IDX type: path=\"type\", type=0x0a");
  write_file ("magic", "\1\2\3\4", 4);
  expect_failure ("import magic --format idx -o x.h5", 1, "Not an IDX file: path=\"magic\", first bytes=01 02 03 04");
  write_idx ("i", 0x08, SIZES (2, 1), data, 2);
  write_idx ("l3", 0x08, SIZES (3), data, 3);
  expect_failure ("import i --labels l3 -o x.h5", 1, "Images and labels differ in number: images=2 (\"i\"), labels=3 (\"l3\")");
  expect_failure ("import i --labels i -o x.h5", 1, "Not labels: path=\"i\", rank=2");
  write_idx ("neg", 0x09, SIZES (2), "\x01\xff", 2);
  expect_failure ("import i --labels neg -o x.h5", 1, "Negative label: path=\"neg\", row=1, value=-1");
}
GST_END_TEST

static void
write_npy (const gchar *name, const gchar *header, gconstpointer data, gsize n)
{
  g_autoptr (GByteArray) bytes = g_byte_array_new ();
  gsize length = strlen (header);
  guint8 start[10] = { 0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, (guint8) length, (guint8) (length >> 8) };

  g_byte_array_append (bytes, start, 10);
  g_byte_array_append (bytes, (const guint8 *) header, (guint) length);
  g_byte_array_append (bytes, data, (guint) n);
  write_file (name, bytes->data, bytes->len);
}

#define F4(shape) "{'descr': '<f4', 'fortran_order': False, 'shape': " shape ", }\n"

GST_START_TEST (test_npy)
{
  static const gfloat values[] = { 1, 2.5, -3, 4, 5, 6 };

  write_npy ("x.npy", F4 ("(2, 3)"), values, sizeof values);
  write_npy ("y.npy", "{\"shape\": (2,), 'fortran_order': True, \"descr\": '>i2'}", "\x00\x05\x01\x00", 4);
  expect_done ("import x.npy --labels y.npy -o a.h5");
  expect_layout ("a.h5", "input=float32:3 label=int64 sample.id=int64");
  expect_numbers ("a.h5", "input", NUMBERS (1, 2.5, -3, 4, 5, 6));
  expect_numbers ("a.h5", "label", NUMBERS (5, 256));
  write_npy ("i.npy", "{'descr': '|i1', 'fortran_order': False, 'shape': (2, 1)}", "\xff\x02", 2);
  expect_done ("import i.npy -o i.h5");
  expect_numbers ("i.h5", "input", NUMBERS (-1, 2));
  write_npy ("b.npy", "{'descr': '|b1', 'fortran_order': False, 'shape': (3,)}", "\0\1\7", 3);
  expect_done ("import b.npy -o b.h5");
  expect_layout ("b.h5", "input=bool sample.id=int64");
  expect_numbers ("b.h5", "input", NUMBERS (0, 1, 1));
}
GST_END_TEST

static void
bad_npy (const gchar *header, gsize n, const gchar *part)
{
  static const guint8 data[64] = { 0 };

  write_npy ("bad.npy", header, data, n);
  expect_failure ("import bad.npy -o bad.h5", 1, part);
}

GST_START_TEST (test_npy_bad)
{
  bad_npy (F4 ("(2, 3)"), 23, "npy file is cut off or longer than its header says: path=\"bad.npy\", bytes wanted=");
  bad_npy (F4 ("(2, 3)"), 25, "npy file is cut off or longer than its header says");
  bad_npy ("{'descr': '|O', 'fortran_order': False, 'shape': (2,)}", 16, "descr=|O; objects are pickled programs and never loaded");
  bad_npy ("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,)}", 8, "descr=structured records; save each column");
  bad_npy ("{'descr': '<c8', 'fortran_order': False, 'shape': (1,)}", 8, "descr=<c8; save it as float32 or int64");
  bad_npy ("{'descr': '<U3', 'fortran_order': False, 'shape': (1,)}", 12, "descr=<U3");
  bad_npy ("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 2)}", 16, "fortran_order=True; rows lie apart in it: save numpy.ascontiguousarray "
                                                                           "(a)");
  bad_npy (F4 ("()"), 4, "shape=(); the first axis must be the samples");
  bad_npy (F4 ("(4294967296, 4294967296, 4294967296)"), 4, "npy header declares an impossible size: path=\"bad.npy\", rows=4294967296");
  bad_npy (F4 ("(99999999999999999999,)"), 4, "wanted=a size below 2^63");
  bad_npy (F4 ("(1000000000000,)"), 4, "bytes wanted=4000000000");
  bad_npy (F4 ("(-1,)"), 4, "wanted=a size of an axis");
  bad_npy (F4 ("(1,1,1,1,1,1,1,1,1)"), 4, "wanted=at most 8 axes");
  bad_npy ("{'descr': '<f4', 'shape': (1,)}", 4, "wanted=the keys descr, fortran_order and shape, and nothing after them");
  bad_npy ("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", 4, "once each");
  bad_npy ("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)} + os.system ('x')", 4, "nothing after them");
  bad_npy ("{'descr': __import__('os'), 'fortran_order': False, 'shape': (1,)}", 4, "wanted=a quoted string");
  write_file ("short.npy", "\x93NUMPY\1\0\xff\xff{", 11);
  expect_failure ("import short.npy -o x.h5", 1, "File ends too early: path=\"short.npy\"");
  write_file ("v9.npy", "\x93NUMPY\x09\0\1\0 ", 11);
  expect_failure ("import v9.npy -o x.h5", 1, "version=9");
}
GST_END_TEST

GST_START_TEST (test_npz)
{
  static const gfloat values[] = { 1, 2, 3, 4 };

  if (shell ("python3 -c 'import zipfile' || exit 77") != 0)
    return; /* a zip needs somebody to write it */
  write_npy ("X.npy", F4 ("(2, 2)"), values, sizeof values);
  write_npy ("y.npy", "{'descr': '<i8', 'fortran_order': False, 'shape': (2,)}", "\1\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0", 16);
  write_npy ("z.npy", F4 ("(1, 2)"), values, 8);
  write_npy ("o.npy", "{'descr': '|O', 'fortran_order': False, 'shape': (2,)}", values, 16);
  ck_assert_int_eq (shell ("python3 -m zipfile -c a.npz X.npy y.npy z.npy && python3 -m zipfile -c o.npz X.npy o.npy && head -c 300 a.npz > "
                           "cut.npz"),
      0);
  expect_done ("import a.npz --only X,y --rename X=input --rename y=label -o a.h5");
  expect_layout ("a.h5", "input=float32:2 label=int64 sample.id=int64");
  expect_numbers ("a.h5", "input", NUMBERS (1, 2, 3, 4));
  expect_numbers ("a.h5", "label", NUMBERS (1, 2));
  expect_failure ("import a.npz -o b.h5", 1, "Arrays differ in their number of rows: \"a.npz:X.npy\"=2, \"a.npz:z.npy\"=1; choose with --only "
                                             "NAME,NAME");
  expect_failure ("import a.npz --only q -o b.h5", 1, "No array to read: path=\"a.npz\", arrays=\"X, y, z\", --only=q");
  expect_failure ("import a.npz --only X,y --rename X=a --rename y=a -o b.h5", 1, "Two arrays for one field: field=a");
  expect_failure ("import o.npz -o b.h5", 1, "path=\"o.npz:o.npy\", descr=|O");
  expect_failure ("import cut.npz -o b.h5", 1, "cut.npz");
}
GST_END_TEST

/* A picture of one colour, by GStreamer's encoders: foreground as ARGB. */
static void
write_picture (const gchar *name, guint32 colour, gint width, gint height)
{
  g_autofree gchar *path = g_build_filename (folder, name, NULL), *dir = g_path_get_dirname (path);
  g_autofree gchar *text = g_strdup_printf ("videotestsrc num-buffers=1 pattern=solid-color foreground-color=%u ! video/x-raw,width=%d,height=%d ! "
                                            "%s ! filesink location=\"%s\"",
      colour, width, height, g_str_has_suffix (name, ".png") ? "videoconvert ! pngenc" : "jpegenc quality=100", path);
  GstElement *pipeline;
  g_autoptr (GstBus) bus = NULL;
  g_autoptr (GstMessage) message = NULL;

  g_mkdir_with_parents (dir, 0755);
  pipeline = gst_parse_launch (text, NULL);
  ck_assert (pipeline != NULL);
  bus = gst_element_get_bus (pipeline);
  gst_element_set_state (pipeline, GST_STATE_PLAYING);
  message = gst_bus_timed_pop_filtered (bus, 30 * GST_SECOND, GST_MESSAGE_EOS | GST_MESSAGE_ERROR);
  ck_assert (message && GST_MESSAGE_TYPE (message) == GST_MESSAGE_EOS);
  gst_element_set_state (pipeline, GST_STATE_NULL);
  gst_object_unref (pipeline);
}

#define RED 0xffff0000u
#define BLUE 0xff0000ffu

static void
expect_colour (const gchar *name, gint64 row, gint red, gint green, gint blue)
{
  g_autoptr (KdTensor) input = field_of (name, "input");
  gint wanted[3] = { red, green, blue };
  gint64 plane = input->dims[2] * input->dims[3];

  for (gint c = 0; c < 3; c++)
    for (gint64 i = 0; i < plane; i++)
      ck_assert_int_le (ABS (((guint8 *) input->data)[(row * 3 + c) * plane + i] - wanted[c]), 24); /* JPEG and the way by YUV */
}

GST_START_TEST (test_images)
{
  write_picture ("set/train/cat/1.png", RED, 16, 16); /* whole blocks: a JPEG encoder fills others with what it likes */
  write_picture ("set/train/ant/2.jpg", BLUE, 16, 16);
  write_picture ("set/test/cat/3.png", BLUE, 16, 16);
  write_text ("set/train/README.txt", "not an image");
  expect_done ("import set --split train -o a.h5");
  ck_assert_str_eq (out_text, "a.h5: 2 rows from set (images), 2 classes, 1 files that are no images passed over\n");
  expect_layout ("a.h5", "input=uint8:3x16x16 label=int64 sample.id=int64");
  expect_numbers ("a.h5", "label", NUMBERS (0, 1)); /* files in sorted order: train/ant, train/cat */
  expect_attribute ("a.h5", "kd.classes", "[\"ant\",\"cat\"]");
  expect_colour ("a.h5", 0, 0, 0, 255);
  expect_colour ("a.h5", 1, 255, 0, 0);
  ck_assert_int_eq (shell ("tar -czf set.tar.gz set/train/cat set/train/ant"), 0);
  expect_done ("import set.tar.gz --split train -o t.h5"); /* one folder around everything is usual */
  expect_numbers ("t.h5", "label", NUMBERS (1, 0));
  expect_colour ("t.h5", 0, 255, 0, 0);
  write_picture ("set/train/cat/9.jpg", RED, 12, 8);
  expect_failure ("import set --split train -o b.h5", 1, "Images differ in size: file=\"train/cat/9.jpg\", size=12x8, first image=16x16; scale them "
                                                         "with --size WxH");
  expect_done ("import set --split train --size 5x3 -o s.h5");
  expect_layout ("s.h5", "input=uint8:3x3x5 label=int64 sample.id=int64");
  expect_colour ("s.h5", 2, 255, 0, 0);
}
GST_END_TEST

/* Cut a file of the folder to @n bytes, or with n < 0 by that many. */
static void
cut (const gchar *name, gint n)
{
  g_autofree gchar *command = g_strdup_printf ("head -c %d '%s' > cut.tmp && mv cut.tmp '%s'", n, name, name);

  ck_assert_int_eq (shell (command), 0);
}

GST_START_TEST (test_images_bad)
{
  g_autofree gchar *png = NULL, *path = g_build_filename (folder, "p/cat/1.png", NULL);
  gsize n;

  write_picture ("j/cat/1.jpg", RED, 16, 16);
  write_picture ("j/dog/2.jpg", RED, 16, 16);
  ck_assert_int_eq (shell ("tar -cf whole.tar j && head -c 2000 whole.tar > cut.tar"), 0);
  expect_failure ("import cut.tar -o x.h5", 1, "cut.tar");
  cut ("j/dog/2.jpg", -20);
  expect_failure ("import j -o x.h5", 1, "Broken image: file=\"dog/2.jpg\", kind=jpeg");
  ck_assert_int_eq (shell ("tar -cf broken.tar j"), 0);
  expect_failure ("import broken.tar -o x.h5", 1, "Broken image: file=\"j/dog/2.jpg\", kind=jpeg, bytes=");
  write_text ("j/dog/2.jpg", "<html>404</html>");
  expect_failure ("import j -o x.h5", 1, "file=\"dog/2.jpg\", kind=unknown, bytes=16, reason=neither JPEG, PNG nor WebP");
  write_text ("j/dog/2.jpg", "");
  expect_failure ("import j -o x.h5", 1, "reason=empty file");
  write_picture ("p/cat/1.png", BLUE, 8, 8);
  ck_assert (g_file_get_contents (path, &png, &n, NULL));
  memcpy (png + 16, "\x7f\xff\xff\xff\x7f\xff\xff\xff", 8);
  write_file ("p/cat/1.png", png, n);
  expect_failure ("import p -o x.h5", 1, "Image of an impossible size: file=\"cat/1.png\", size=2147483647x2147483647");
  memcpy (png + 16, "\0\0\0\x08\0\0\0\x08", 8);
  memset (png + 41, 0x55, 12); /* the compressed pixels */
  write_file ("p/cat/1.png", png, n);
  expect_failure ("import p -o x.h5", 1, "Broken image: file=\"cat/1.png\", kind=png");
  write_file ("p/cat/1.png", png, 40);
  expect_failure ("import p -o x.h5", 1, "cut off (no end chunk)");
  write_picture ("flat/1.png", BLUE, 8, 8);
  expect_failure ("import flat -o x.h5", 1, "Image in no class folder: file=\"1.png\", path=\"flat\"; wanted CLASS/FILE");
  expect_failure ("import flat --split train -o x.h5", 1, "No images: path=\"flat\", --split=train");
  write_text ("none.tar", "this is no archive at all");
  expect_failure ("import none.tar -o x.h5", 1, "none.tar");
}
GST_END_TEST

static Suite *
data_binary_suite (void)
{
  Suite *suite = suite_create ("data-binary");
  TCase *tcase = tcase_create ("all");

  suite_add_tcase (suite, tcase);
  tcase_add_checked_fixture (tcase, make_folder, remove_folder);
  tcase_add_test (tcase, test_idx);
  tcase_add_test (tcase, test_idx_bad);
  tcase_add_test (tcase, test_npy);
  tcase_add_test (tcase, test_npy_bad);
  tcase_add_test (tcase, test_npz);
  tcase_add_test (tcase, test_images);
  tcase_add_test (tcase, test_images_bad);
  return suite;
}

GST_CHECK_MAIN (data_binary);
