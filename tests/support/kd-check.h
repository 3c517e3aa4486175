/* What GStreamer's bundled Check lacks: comparing numbers with a tolerance, and looking at a whole error. */
#pragma once
#include <gst/check/gstcheck.h>
#include <kd/kd.h>
#include <math.h>

#define kd_assert_close(a, b, tolerance)                                               \
  G_STMT_START                                                                         \
  {                                                                                    \
    gdouble kd_a = (a), kd_b = (b), kd_t = (tolerance);                                \
    if (!(fabs (kd_a - kd_b) <= kd_t * MAX (1.0, MAX (fabs (kd_a), fabs (kd_b)))))     \
      ck_abort_msg ("%s = %.17g, %s = %.17g, tolerance %g", #a, kd_a, #b, kd_b, kd_t); \
  }                                                                                    \
  G_STMT_END

/** kd_assert_error: @err is (KD_ERROR, @ecode) and its message contains @part; clears it. */
#define kd_assert_error(err, ecode, part)                                                                               \
  G_STMT_START                                                                                                          \
  {                                                                                                                     \
    if (!(err))                                                                                                         \
      ck_abort_msg ("no error where \"%s\" was expected", part);                                                        \
    if (!g_error_matches ((err), KD_ERROR, (ecode)) || !strstr ((err)->message, (part)))                                \
      ck_abort_msg ("error %s/%d \"%s\", expected code %d with \"%s\"", g_quark_to_string ((err)->domain), (err)->code, \
          (err)->message, (ecode), (part));                                                                             \
    g_clear_error (&(err));                                                                                             \
  }                                                                                                                     \
  G_STMT_END

#define kd_assert_no_error(err)                              \
  G_STMT_START                                               \
  {                                                          \
    if (err)                                                 \
      ck_abort_msg ("unexpected error: %s", (err)->message); \
  }                                                          \
  G_STMT_END

/* GStreamer's Check is older than these two. */
#ifndef ck_assert_ptr_null
#define ck_assert_ptr_null(p) ck_assert_msg ((p) == NULL, "%s is not NULL", #p)
#define ck_assert_ptr_nonnull(p) ck_assert_msg ((p) != NULL, "%s is NULL", #p)
#endif
