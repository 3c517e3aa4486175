/* kd_download against a server in this process: whole files, broken-off ones that go on, servers that lie. */
#include "data-support.h"
#include "../../tools/data/kd-data-get.h"

#include <glib/gstdio.h>

#define BYTES 300000

typedef struct {
  GSocketService *service;
  gchar *url;
  guint8 *body;
  gsize send;      /* bytes of the body that it has */
  gsize cut;       /* hangs up after so many, 0: never */
  gboolean ranges; /* can it send a part */
  gint status;     /* 0: as it should be */
  gint n_requests;
  gchar *range; /* the last request's Range line, or NULL */
} Server;

static void
answer (Server *server, GOutputStream *out, gsize first, GString *request)
{
  g_autofree gchar *head = NULL;
  gsize n = server->send - first, say = n;

  if (server->cut && n > server->cut)
    n = server->cut;
  if (server->status)
    head = g_strdup_printf ("HTTP/1.1 %d No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", server->status);
  else if (first > 0)
    head = g_strdup_printf ("HTTP/1.1 206 Partial Content\r\nContent-Range: bytes %zu-%zu/%zu\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n",
        first, server->send - 1,
        server->send, say);
  else
    head = g_strdup_printf ("HTTP/1.1 200 OK\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n", say);
  g_output_stream_write_all (out, head, strlen (head), NULL, NULL, NULL);
  if (!server->status)
    g_output_stream_write_all (out, server->body + first, n, NULL, NULL, NULL);
}

static gboolean
on_run (GThreadedSocketService *service, GSocketConnection *connection, GObject *source, gpointer user_data)
{
  Server *server = user_data;
  g_autoptr (GDataInputStream) in = g_data_input_stream_new (g_io_stream_get_input_stream (G_IO_STREAM (connection)));
  g_autoptr (GString) request = g_string_new (NULL);
  gsize first = 0;
  gchar *line;

  g_atomic_int_inc (&server->n_requests);
  g_clear_pointer (&server->range, g_free);
  while ((line = g_data_input_stream_read_line (in, NULL, NULL, NULL))) {
    gboolean end = *line == 0 || *line == '\r';
    if (g_str_has_prefix (line, "Range: bytes=")) {
      server->range = g_strchomp (g_strdup (line));
      first = server->ranges ? (gsize) g_ascii_strtoull (line + 13, NULL, 10) : 0;
    }
    g_free (line);
    if (end)
      break;
  }
  answer (server, g_io_stream_get_output_stream (G_IO_STREAM (connection)), first, request);
  g_io_stream_close (G_IO_STREAM (connection), NULL, NULL);
  return TRUE;
}

static Server *
server_new (void)
{
  Server *server = g_new0 (Server, 1);
  GError *error = NULL;
  guint16 port;

  server->service = g_threaded_socket_service_new (4);
  port = g_socket_listener_add_any_inet_port (G_SOCKET_LISTENER (server->service), NULL, &error);
  ck_assert_msg (port != 0, "%s", error ? error->message : "");
  g_signal_connect (server->service, "run", G_CALLBACK (on_run), server);
  server->url = g_strdup_printf ("http://127.0.0.1:%u/file", port);
  server->body = g_malloc (BYTES + 1000);
  for (gsize i = 0; i < BYTES + 1000; i++)
    server->body[i] = (guint8) (i * 2654435761u >> 13);
  server->send = BYTES;
  server->ranges = TRUE;
  return server;
}

static Server *server;
static GMainLoop *loop;
static GThread *thread;

static gpointer
run_loop (gpointer data)
{
  g_main_loop_run (loop);
  return NULL;
}

static void
start (void)
{
  make_folder ();
  g_unsetenv ("http_proxy");
  g_unsetenv ("HTTP_PROXY");
  g_setenv ("no_proxy", "127.0.0.1", TRUE);
  server = server_new ();
  loop = g_main_loop_new (NULL, FALSE);
  thread = g_thread_new ("server", run_loop, NULL);
}

static void
stop (void)
{
  g_main_loop_quit (loop);
  g_thread_join (thread);
  g_main_loop_unref (loop);
  g_socket_service_stop (server->service);
  g_object_unref (server->service);
  g_free (server->url);
  g_free (server->body);
  g_free (server->range);
  g_free (server);
  remove_folder ();
}

static gboolean
fetch (GError **error)
{
  g_autofree gchar *path = g_build_filename (folder, "file.part", NULL);

  return kd_download (server->url, path, BYTES, error);
}

static void
expect_whole (void)
{
  g_autofree gchar *path = g_build_filename (folder, "file.part", NULL), *sum = NULL, *data = NULL;
  KdKnownFile file = { "file", BYTES, NULL, NULL };
  GError *error = NULL;
  gsize n;

  ck_assert (g_file_get_contents (path, &data, &n, NULL));
  ck_assert_uint_eq (n, BYTES);
  ck_assert_int_eq (memcmp (data, server->body, BYTES), 0);
  file.sha256 = sum = g_compute_checksum_for_data (G_CHECKSUM_SHA256, server->body, BYTES);
  ck_assert (kd_known_verify (&file, path, &error));
  server->body[5] ^= 1;
  g_free (sum);
  file.sha256 = sum = g_compute_checksum_for_data (G_CHECKSUM_SHA256, server->body, BYTES);
  ck_assert (!kd_known_verify (&file, path, &error));
  kd_assert_error (error, KD_ERROR_IO, "Fingerprint differs: path=\"");
}

GST_START_TEST (test_whole)
{
  GError *error = NULL;

  ck_assert (fetch (&error));
  kd_assert_no_error (error);
  expect_whole ();
}
GST_END_TEST

/* The second call asks for the rest alone. */
GST_START_TEST (test_resume)
{
  GError *error = NULL;

  server->cut = 100000;
  ck_assert (!fetch (&error));
  kd_assert_error (error, KD_ERROR_NETWORK, "http status=200, bytes so far=100000 of 300000");
  server->cut = 0;
  ck_assert (fetch (&error));
  ck_assert_str_eq (server->range, "Range: bytes=100000-");
  expect_whole ();
}
GST_END_TEST

/* A server that cannot send a part: all again, and right. */
GST_START_TEST (test_resume_without_ranges)
{
  GError *error = NULL;

  server->cut = 100000;
  server->ranges = FALSE;
  ck_assert (!fetch (&error));
  g_clear_error (&error);
  server->cut = 0;
  ck_assert (fetch (&error));
  expect_whole ();
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  GError *error = NULL;
  g_autofree gchar *path = g_build_filename (folder, "file.part", NULL);

  server->status = 404;
  ck_assert (!fetch (&error));
  kd_assert_error (error, KD_ERROR_NETWORK, "http status=404, bytes so far=0 of 300000");
  ck_assert (!g_file_test (path, G_FILE_TEST_EXISTS));
  server->status = 0;
  server->send = BYTES + 1000; /* would fill the disk if it were let */
  ck_assert (!fetch (&error));
  kd_assert_error (error, KD_ERROR_MISMATCH, "Server sends another file: url=http://127.0.0.1:");
  ck_assert (!g_file_test (path, G_FILE_TEST_EXISTS));
  ck_assert (!kd_download (server->url, "/nowhere/file.part", BYTES, &error));
  kd_assert_error (error, KD_ERROR_IO, "Cannot write download: path=\"/nowhere/file.part\"");
  ck_assert (!kd_download ("http://127.0.0.1:1/x", path, BYTES, &error));
  kd_assert_error (error, KD_ERROR_NETWORK, "Cannot download: url=http://127.0.0.1:1/x, http status=0");
  ck_assert (!kd_download ("http://no-such-host.invalid/x", path, BYTES, &error));
  kd_assert_error (error, KD_ERROR_NETWORK, "url=http://no-such-host.invalid/x");
}
GST_END_TEST

static Suite *
data_download_suite (void)
{
  Suite *suite = suite_create ("data-download");
  TCase *tcase = tcase_create ("all");

  suite_add_tcase (suite, tcase);
  tcase_add_checked_fixture (tcase, start, stop);
  tcase_add_test (tcase, test_whole);
  tcase_add_test (tcase, test_resume);
  tcase_add_test (tcase, test_resume_without_ranges);
  tcase_add_test (tcase, test_refusals);
  return suite;
}

GST_CHECK_MAIN (data_download);
