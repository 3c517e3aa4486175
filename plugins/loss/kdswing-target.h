/* Internal to kdswing and kdswingcache: what the teacher's side of swing distillation is, the same numbers in both. */
#pragma once
#include <kd/kd.h>

typedef struct {
  gdouble tau_min, tau_max, epsilon, sensitivity, threshold;
  gint noise, noise_scope, scaling; /* scaling: of kdswing alone */
  guint64 seed;
} KdSwingParams;

extern const KdEnumValue kd_swing_noises[], kd_swing_scopes[];

/* clang-format off */
#define KD_SWING_PARAMS \
  KD_PARAM_DOUBLE (KdSwingParams, tau_min, 0.01, 1000.0, 2.0, "Temperature of public tokens"), \
  KD_PARAM_DOUBLE (KdSwingParams, tau_max, 0.01, 1000.0, 20.0, "Temperature of private tokens"), \
  KD_PARAM_ENUM (KdSwingParams, noise, kd_swing_noises, 1, "Noise on the targets"), \
  KD_PARAM_DOUBLE (KdSwingParams, epsilon, 1e-9, 1e9, 10.0, "Privacy budget of one released target"), \
  KD_PARAM_DOUBLE (KdSwingParams, sensitivity, 1e-9, 1e9, 2.0, "Largest L1 distance of two targets"), \
  KD_PARAM_ENUM (KdSwingParams, noise_scope, kd_swing_scopes, 0, "Which rows get noise"), \
  KD_PARAM_DOUBLE (KdSwingParams, threshold, 0.0, 1.0, 0.5, "noise-scope=private: privacy from which a row counts as private"), \
  KD_PARAM_UINT64 (KdSwingParams, seed, 42, "Key of the noise")
/* clang-format on */

/** kd_swing_check: tau-max is not below tau-min (KD_ERROR_RANGE). */
gboolean kd_swing_check (const KdSwingParams *params, const gchar *element, GError **error);

/* @privacy [*], @teacher [* V], @draws [* V] or NULL; @n rows of @size. */
typedef struct {
  const gchar *element;
  const KdTensor *teacher, *privacy, *draws;
  gint64 n, size;
} KdSwingTeacher;

/** kd_swing_temperature: the row's temperature and the noise's amplitude from its privacy (KD_ERROR_VALUE when that is none). */
gboolean kd_swing_temperature (const KdCall *call, const KdSwingTeacher *from, gint64 row, gdouble *ret_tau, gdouble *ret_amplitude, GError **error);

/** kd_swing_target: the row's q~ into @q [size]. What is drawn depends on seed, sample, view, epoch and place in the sample alone. */
gboolean kd_swing_target (const KdCall *call, const KdSwingTeacher *from, gint64 row, gdouble tau, gdouble amplitude, gdouble *q, GError **error);

/** kd_swing_log_softmax: in place, log softmax (x / t). */
void kd_swing_log_softmax (gint64 size, gdouble *x, gdouble t);
