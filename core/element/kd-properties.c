/* Parameter tables as GObject properties. */
#include "kd-element.h"
#include "kd-leaf.h"

#define MEMBER(type, block, param) (*(type *) ((gchar *) (block) + (param)->offset))

/* GEnum and GFlags types are registered once and for ever, by owner and member. */
static GType
enum_type (const KdParam *param, const gchar *owner)
{
  g_autofree gchar *name = g_strconcat (owner, "-", param->member, NULL);
  GType type;
  guint n = 0;
  GEnumValue *values;

  g_strcanon (name, G_CSET_A_2_Z G_CSET_a_2_z G_CSET_DIGITS "-_", '-');
  type = g_type_from_name (name);
  if (type)
    return type;
  while (param->values[n].nick)
    n++;
  if (param->type == KD_PARAM_TYPE_FLAGS) {
    GFlagsValue *bits = g_new0 (GFlagsValue, n + 1);
    for (guint i = 0; i < n; i++)
      bits[i] = (GFlagsValue) { (guint) param->values[i].value, param->values[i].description, param->values[i].nick };
    return g_flags_register_static (g_intern_string (name), bits);
  }
  values = g_new0 (GEnumValue, n + 1);
  for (guint i = 0; i < n; i++)
    values[i] = (GEnumValue) { param->values[i].value, param->values[i].description, param->values[i].nick };
  return g_enum_register_static (g_intern_string (name), values);
}

static GParamSpec *
param_spec (const KdParam *param, const gchar *owner)
{
  g_autofree gchar *name = kd_param_name (param);
  GParamFlags flags = G_PARAM_READWRITE | G_PARAM_STATIC_BLURB | GST_PARAM_MUTABLE_PLAYING;

  switch (param->type) {
  case KD_PARAM_TYPE_DOUBLE:
    return g_param_spec_double (name, name, param->blurb, param->min, param->max, param->def, flags);
  case KD_PARAM_TYPE_INT:
    return g_param_spec_int64 (name, name, param->blurb, param->imin, param->imax, param->idef, flags);
  case KD_PARAM_TYPE_UINT64:
    return g_param_spec_uint64 (name, name, param->blurb, 0, G_MAXUINT64, (guint64) param->idef, flags);
  case KD_PARAM_TYPE_BOOL:
    return g_param_spec_boolean (name, name, param->blurb, param->idef != 0, flags);
  case KD_PARAM_TYPE_ENUM:
    return g_param_spec_enum (name, name, param->blurb, enum_type (param, owner), (gint) param->idef, flags);
  case KD_PARAM_TYPE_FLAGS:
    return g_param_spec_flags (name, name, param->blurb, enum_type (param, owner), (guint) param->idef, flags);
  case KD_PARAM_TYPE_STRING:
    return g_param_spec_string (name, name, param->blurb, param->sdef, flags);
  case KD_PARAM_TYPE_END:
    break;
  }
  g_return_val_if_reached (NULL);
}

void
kd_properties_install (GObjectClass *klass, const KdParam *table, const gchar *type_name, guint first_id)
{
  for (guint i = 0; table && table[i].type != KD_PARAM_TYPE_END; i++)
    g_object_class_install_property (klass, first_id + i, param_spec (&table[i], type_name));
}

void
kd_properties_init (KdProperties *properties, const KdParam *table, gsize size)
{
  g_mutex_init (&properties->lock);
  properties->table = table;
  properties->size = size;
  properties->block = g_malloc0 (MAX (size, 1));
  kd_params_init (table, properties->block);
}

void
kd_properties_clear (KdProperties *properties)
{
  kd_params_clear (properties->table, properties->block);
  g_clear_pointer (&properties->block, g_free);
  g_mutex_clear (&properties->lock);
}

void
kd_properties_set (KdProperties *properties, guint row, const GValue *value)
{
  const KdParam *param = &properties->table[row];
  gpointer block = properties->block;

  g_mutex_lock (&properties->lock);
  switch (param->type) {
  case KD_PARAM_TYPE_DOUBLE:
    MEMBER (gdouble, block, param) = g_value_get_double (value);
    break;
  case KD_PARAM_TYPE_INT:
    MEMBER (gint64, block, param) = g_value_get_int64 (value);
    break;
  case KD_PARAM_TYPE_UINT64:
    MEMBER (guint64, block, param) = g_value_get_uint64 (value);
    break;
  case KD_PARAM_TYPE_BOOL:
    MEMBER (gboolean, block, param) = g_value_get_boolean (value);
    break;
  case KD_PARAM_TYPE_ENUM:
    MEMBER (gint, block, param) = g_value_get_enum (value);
    break;
  case KD_PARAM_TYPE_FLAGS:
    MEMBER (guint, block, param) = g_value_get_flags (value);
    break;
  case KD_PARAM_TYPE_STRING:
    g_free (MEMBER (gchar *, block, param));
    MEMBER (gchar *, block, param) = g_value_dup_string (value);
    break;
  case KD_PARAM_TYPE_END:
    break;
  }
  g_mutex_unlock (&properties->lock);
}

void
kd_properties_get (KdProperties *properties, guint row, GValue *value)
{
  const KdParam *param = &properties->table[row];
  gpointer block = properties->block;

  g_mutex_lock (&properties->lock);
  switch (param->type) {
  case KD_PARAM_TYPE_DOUBLE:
    g_value_set_double (value, MEMBER (gdouble, block, param));
    break;
  case KD_PARAM_TYPE_INT:
    g_value_set_int64 (value, MEMBER (gint64, block, param));
    break;
  case KD_PARAM_TYPE_UINT64:
    g_value_set_uint64 (value, MEMBER (guint64, block, param));
    break;
  case KD_PARAM_TYPE_BOOL:
    g_value_set_boolean (value, MEMBER (gboolean, block, param));
    break;
  case KD_PARAM_TYPE_ENUM:
    g_value_set_enum (value, MEMBER (gint, block, param));
    break;
  case KD_PARAM_TYPE_FLAGS:
    g_value_set_flags (value, MEMBER (guint, block, param));
    break;
  case KD_PARAM_TYPE_STRING:
    g_value_set_string (value, MEMBER (gchar *, block, param));
    break;
  case KD_PARAM_TYPE_END:
    break;
  }
  g_mutex_unlock (&properties->lock);
}

gpointer
kd_properties_snapshot (KdProperties *properties)
{
  gpointer block = g_malloc (MAX (properties->size, 1));

  g_mutex_lock (&properties->lock);
  kd_params_copy (properties->table, properties->block, block, properties->size);
  g_mutex_unlock (&properties->lock);
  return block;
}

void
kd_properties_free_snapshot (KdProperties *properties, gpointer block)
{
  if (!block)
    return;
  kd_params_clear (properties->table, block);
  g_free (block);
}

void
kd_property_pair_install (GObjectClass *klass, const KdParam *base, const KdParam *leaf)
{
  const gchar *type_name = G_OBJECT_CLASS_NAME (klass);

  for (guint i = 0; base && base[i].type != KD_PARAM_TYPE_END; i++)
    if (!kd_param_find (leaf, base[i].member))
      g_object_class_install_property (klass, 1 + i, param_spec (&base[i], type_name));
  kd_properties_install (klass, leaf, type_name, KD_LEAF_ID);
}

void
kd_property_pair_init (KdPropertyPair *pair, const KdParam *base, gsize base_size, const KdParam *leaf, gsize leaf_size)
{
  kd_properties_init (&pair->base, base, base_size);
  kd_properties_init (&pair->leaf, leaf, leaf_size);
}

void
kd_property_pair_clear (KdPropertyPair *pair)
{
  kd_properties_clear (&pair->base);
  kd_properties_clear (&pair->leaf);
}

void
kd_property_pair_set (KdPropertyPair *pair, guint id, const GValue *value)
{
  kd_properties_set (id >= KD_LEAF_ID ? &pair->leaf : &pair->base, id >= KD_LEAF_ID ? id - KD_LEAF_ID : id - 1, value);
}

void
kd_property_pair_get (KdPropertyPair *pair, guint id, GValue *value)
{
  kd_properties_get (id >= KD_LEAF_ID ? &pair->leaf : &pair->base, id >= KD_LEAF_ID ? id - KD_LEAF_ID : id - 1, value);
}
