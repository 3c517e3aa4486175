/* Specifications as kd-model.c uses them; not installed. */
#pragma once
#include "kd-model.h"

G_BEGIN_DECLS

/* A specification made sense of: the architecture and its parameter block. */
typedef struct {
  const KdArchDesc *desc;
  gpointer params;
} KdArchSpec;

gboolean _kd_arch_spec_parse (const gchar *text, KdArchSpec *ret_spec, GError **error);
void _kd_arch_spec_clear (KdArchSpec *spec);
/* All keys spelt out, but for those that only training reads ("dropout..."): two of these that differ compute different things. */
gchar *_kd_arch_spec_meaning (const KdArchSpec *spec);

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (KdArchSpec, _kd_arch_spec_clear)

G_END_DECLS
