/* Parameter tables: what a leaf can be told, as one `const` array. The same table makes GObject properties for
 * elements, keys of a model specification ("mlp dims=64,10") for architectures, and the text of `kd inspect`. */
#pragma once
#include <glib.h>
#include "kd-error.h"

G_BEGIN_DECLS

typedef enum {
  KD_PARAM_TYPE_END,
  KD_PARAM_TYPE_DOUBLE,
  KD_PARAM_TYPE_INT,    /* gint64 */
  KD_PARAM_TYPE_UINT64, /* guint64 */
  KD_PARAM_TYPE_BOOL,   /* gboolean */
  KD_PARAM_TYPE_ENUM,   /* gint, one of `values` */
  KD_PARAM_TYPE_FLAGS,  /* guint, any of the bits in `values`: "st+tg" */
  KD_PARAM_TYPE_STRING, /* gchar *, owned by the parameter block */
} KdParamType;

/** KdEnumValue: one value of an enumeration; a table ends with a NULL nick. */
typedef struct {
  gint value;
  const gchar *nick;
  const gchar *description;
  const gchar *formula; /* what the descriptor's formula says with this value, for kd inspect; or NULL */
} KdEnumValue;

/**
 * KdParam:
 * @member: C name of the member; the property's name is the same with '-' for '_'
 * @offset: of the member in the parameter struct
 *
 * One row of a table. Write rows with the KD_PARAM_* macros only.
 */
typedef struct {
  KdParamType type;
  const gchar *member;
  gsize offset;
  gdouble min, max, def;
  gint64 imin, imax, idef;
  const gchar *sdef;
  const KdEnumValue *values;
  const gchar *blurb;
} KdParam;

/* The first argument is the parameter struct's type, the second its member. */
/* clang-format off */
#define KD_PARAM_DOUBLE(S, m, lo, hi, d, text) \
  { .type = KD_PARAM_TYPE_DOUBLE, .member = #m, .offset = G_STRUCT_OFFSET (S, m), .min = (lo), .max = (hi), .def = (d), .blurb = (text) }
#define KD_PARAM_INT(S, m, lo, hi, d, text) \
  { .type = KD_PARAM_TYPE_INT, .member = #m, .offset = G_STRUCT_OFFSET (S, m), .imin = (lo), .imax = (hi), .idef = (d), .blurb = (text) }
#define KD_PARAM_UINT64(S, m, d, text) \
  { .type = KD_PARAM_TYPE_UINT64, .member = #m, .offset = G_STRUCT_OFFSET (S, m), .idef = (gint64) (d), .blurb = (text) }
#define KD_PARAM_BOOL(S, m, d, text) \
  { .type = KD_PARAM_TYPE_BOOL, .member = #m, .offset = G_STRUCT_OFFSET (S, m), .idef = (d), .blurb = (text) }
#define KD_PARAM_ENUM(S, m, table, d, text) \
  { .type = KD_PARAM_TYPE_ENUM, .member = #m, .offset = G_STRUCT_OFFSET (S, m), .values = (table), .idef = (d), .blurb = (text) }
#define KD_PARAM_FLAGS(S, m, table, d, text) \
  { .type = KD_PARAM_TYPE_FLAGS, .member = #m, .offset = G_STRUCT_OFFSET (S, m), .values = (table), .idef = (d), .blurb = (text) }
#define KD_PARAM_STRING(S, m, d, text) \
  { .type = KD_PARAM_TYPE_STRING, .member = #m, .offset = G_STRUCT_OFFSET (S, m), .sdef = (d), .blurb = (text) }
#define KD_PARAM_END { .type = KD_PARAM_TYPE_END }
/* clang-format on */

/** kd_param_name: (transfer full) the property's name: member with dashes. */
KD_API gchar *kd_param_name (const KdParam *param);

/** kd_param_find: row called @name (dashes or underscores), or NULL. */
KD_API const KdParam *kd_param_find (const KdParam *table, const gchar *name);

/** kd_params_init: fill a zeroed block with the table's defaults. */
KD_API void kd_params_init (const KdParam *table, gpointer block);

/** kd_params_clear: free what the block owns (strings). */
KD_API void kd_params_clear (const KdParam *table, gpointer block);

/** kd_params_copy: deep copy of @from into the uninitialised block @to. */
KD_API void kd_params_copy (const KdParam *table, gconstpointer from, gpointer to, gsize size);

/**
 * kd_param_set_string: parse @value into the member of @block; KD_ERROR_RANGE outside the range (the message gives
 * both), KD_ERROR_FORMAT when it is not of the type. @owner names who is told, for the message ("kdkl0", "arch mlp").
 */
KD_API gboolean kd_param_set_string (const KdParam *param, gpointer block, const gchar *value, const gchar *owner,
    GError **error);

/** kd_param_to_string: (transfer full) the member's value as kd_param_set_string reads it. */
KD_API gchar *kd_param_to_string (const KdParam *param, gconstpointer block);

/**
 * kd_spec_parse: read "name key=value key=value" (model specifications).
 * @ret_name: (transfer full) the first word
 * @ret_pairs: (transfer full) NULL-terminated key, value, key, value ...; a value may be quoted with '"'
 */
KD_API gboolean kd_spec_parse (const gchar *spec, gchar **ret_name, gchar ***ret_pairs, GError **error);

/** kd_ints_parse: "64,32,10" -> newly allocated array, each in [@min, @max]; at most 64 of them. */
KD_API gint64 *kd_ints_parse (const gchar *text, gint64 min, gint64 max, const gchar *owner, guint *ret_n,
    GError **error);

G_END_DECLS
