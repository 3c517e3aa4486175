/* One file by HTTP, with libcurl where the build has it. */
#include "kd-data-get.h"

#ifdef KD_HAVE_CURL
#include <curl/curl.h>
#include <errno.h>
#include <glib/gstdio.h>
#include <string.h>

typedef struct {
  FILE *file;
  gint64 written, most;
  gboolean too_long, disk_failed;
  KdDataProgress progress;
} Transfer;

static gsize
on_data (char *data, gsize size, gsize n, void *user_data)
{
  Transfer *transfer = user_data;
  gsize bytes = size * n;

  /* The size is known: a server that sends more does not get to fill the disk. */
  transfer->too_long = transfer->written + (gint64) bytes > transfer->most;
  if (transfer->too_long)
    return 0;
  transfer->disk_failed = fwrite (data, 1, bytes, transfer->file) != bytes;
  transfer->written += (gint64) bytes;
  kd_data_progress_update (&transfer->progress, transfer->written);
  return transfer->disk_failed ? 0 : bytes;
}

static CURL *
make_handle (const gchar *url, Transfer *transfer, char *reason)
{
  CURL *curl = curl_easy_init ();

  curl_easy_setopt (curl, CURLOPT_URL, url);
  curl_easy_setopt (curl, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt (curl, CURLOPT_REDIR_PROTOCOLS_STR, "http,https");
  curl_easy_setopt (curl, CURLOPT_FOLLOWLOCATION, 1L);
  curl_easy_setopt (curl, CURLOPT_MAXREDIRS, 8L);
  curl_easy_setopt (curl, CURLOPT_FAILONERROR, 1L);
  curl_easy_setopt (curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt (curl, CURLOPT_CONNECTTIMEOUT, 20L);
  curl_easy_setopt (curl, CURLOPT_LOW_SPEED_LIMIT, 100L);
  curl_easy_setopt (curl, CURLOPT_LOW_SPEED_TIME, 60L);
  curl_easy_setopt (curl, CURLOPT_ERRORBUFFER, reason);
  curl_easy_setopt (curl, CURLOPT_WRITEFUNCTION, on_data);
  curl_easy_setopt (curl, CURLOPT_WRITEDATA, transfer);
  curl_easy_setopt (curl, CURLOPT_RESUME_FROM_LARGE, (curl_off_t) transfer->written);
  return curl;
}

/* One attempt, appending to what is there. */
static CURLcode
transfer_run (const gchar *url, const gchar *path, gint64 bytes, gboolean resume, Transfer *transfer, char *reason, long *ret_status)
{
  CURL *curl;
  CURLcode code;

  memset (transfer, 0, sizeof *transfer);
  transfer->most = bytes;
  transfer->file = g_fopen (path, resume ? "ab" : "wb");
  if (!transfer->file) {
    g_strlcpy (reason, g_strerror (errno), CURL_ERROR_SIZE);
    transfer->disk_failed = TRUE;
    return CURLE_WRITE_ERROR;
  }
  fseek (transfer->file, 0, SEEK_END);
  transfer->written = ftell (transfer->file);
  kd_data_progress_start (&transfer->progress, "bytes", bytes);
  curl = make_handle (url, transfer, reason);
  code = curl_easy_perform (curl);
  curl_easy_getinfo (curl, CURLINFO_RESPONSE_CODE, ret_status);
  curl_easy_cleanup (curl);
  kd_data_progress_end (&transfer->progress);
  if (fclose (transfer->file) != 0 && code == CURLE_OK) {
    transfer->disk_failed = TRUE;
    code = CURLE_WRITE_ERROR;
  }
  return code;
}

gboolean
kd_download (const gchar *url, const gchar *path, gint64 bytes, GError **error)
{
  char reason[CURL_ERROR_SIZE] = "";
  Transfer transfer;
  GStatBuf info;
  gboolean resume = g_stat (path, &info) == 0 && info.st_size > 0 && info.st_size < bytes;
  long status = 0;
  CURLcode code;

  if (g_stat (path, &info) == 0 && info.st_size == bytes)
    return TRUE; /* all here but not verified: the caller does */
  code = transfer_run (url, path, bytes, resume, &transfer, reason, &status);
  /* A server that cannot send a part, or whose file has changed size: all of it again. */
  if (resume && (code == CURLE_RANGE_ERROR || status == 416))
    code = transfer_run (url, path, bytes, FALSE, &transfer, reason, &status);
  if (code == CURLE_OK)
    return TRUE;
  if (transfer.too_long || (transfer.written == 0 && !transfer.disk_failed))
    g_unlink (path);
  if (transfer.disk_failed)
    g_set_error (error, KD_ERROR, KD_ERROR_IO, "Cannot write download: path=\"%s\", bytes=%" G_GINT64_FORMAT ", reason=%s", path, transfer.written,
        *reason ? reason : g_strerror (errno));
  else if (transfer.too_long)
    g_set_error (error, KD_ERROR, KD_ERROR_MISMATCH, "Server sends another file: url=%s, wanted bytes=%" G_GINT64_FORMAT ", it sends more", url,
        bytes);
  else
    g_set_error (error, KD_ERROR, KD_ERROR_NETWORK, "Cannot download: url=%s, http status=%ld, bytes so far=%" G_GINT64_FORMAT " of "
                                                    "%" G_GINT64_FORMAT ", reason=%s; try again (it goes on where it stopped)",
        url, status, transfer.written, bytes, *reason ? reason : curl_easy_strerror (code));
  return FALSE;
}

#else

gboolean
kd_download (const gchar *url, const gchar *path, gint64 bytes, GError **error)
{
  g_set_error (error, KD_ERROR, KD_ERROR_UNSUPPORTED, "Cannot download: url=%s, reason=this build has no libcurl (-Dcurl=enabled); fetch it with "
                                                      "another program",
      url);
  return FALSE;
}

#endif
