/**
 * SECTION:element-kdrelabel
 * @short_description: other labels by a table
 *
 * A label l becomes the l-th number of `map`: "0,1,0,1,0,1,0,1,0,1" makes odd and even of ten digits. Labels below 0 (ignored, none) stay.
 *
 * ## Fields
 *  - label: int64 [N ...], replaced
 * ## Units
 * none.
 * ## Errors
 * A map that is empty or holds something else than numbers from -1 on, a label beyond it (KD_ERROR_RANGE).
 * ## Source
 * Of this project.
 * ## Example
 * |[ kd launch 'kdh5src location=digits.h5 ! kdrelabel map=0,1,0,1,0,1,0,1,0,1 ! kdh5sink location=odd.h5' ]|
 */
#include <kd/kd.h>

typedef struct {
  gchar *map;
} KdRelabelParams;

static const KdParam kd_relabel_params[] = {
  KD_PARAM_STRING (KdRelabelParams, map, "0,1", "New label of the old labels 0, 1, 2 ..., with commas"),
  KD_PARAM_END
};

static const KdFieldSpec kd_relabel_fields[] = {
  { "label", KD_INT64, "N ..." },
  KD_FIELD_END
};
static const KdFieldSpec kd_relabel_outputs[] = {
  { "label", KD_INT64, "N ..." },
  KD_FIELD_END
};

static gint64 *
read_map (gconstpointer params, guint *ret_n, GError **error)
{
  const KdRelabelParams *p = params;
  g_auto (GStrv) words = g_strsplit (p->map ? p->map : "", ",", -1);
  guint n = g_strv_length (words);
  g_autofree gint64 *map = g_new (gint64, MAX (n, 1));

  for (guint i = 0; i < MAX (n, 1); i++)
    if (n == 0 || !g_ascii_string_to_signed (words[i], 10, -1, G_MAXINT32, &map[i], NULL)) {
      g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Map not understood: element=kdrelabel, property=map, value=\"%s\", item=\"%s\", wanted=whole numbers from -1 with commas",
          p->map ? p->map : "", n ? words[i] : "");
      return NULL;
    }
  *ret_n = n;
  return g_steal_pointer (&map);
}

static gboolean
kd_relabel_check (gconstpointer params, GError **error)
{
  guint n;
  g_autofree gint64 *map = read_map (params, &n, error);

  return map != NULL;
}

static gboolean
kd_relabel_evaluate (const KdCall *call, KdOutputs *ret, GError **error)
{
  const KdTensor *label = call->in[0];
  guint n;
  g_autofree gint64 *map = read_map (call->params, &n, error);
  const gint64 *from = label->data;
  gint64 *to;

  if (!map)
    return FALSE;
  ret->out[0] = kd_tensor_new (KD_INT64, label->rank, label->dims);
  to = ret->out[0]->data;
  for (gsize i = 0; i < kd_tensor_n_elements (label); i++) {
    if (from[i] >= (gint64) n) {
      g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Label beyond the map: element=kdrelabel, field=label, row=%" G_GSIZE_FORMAT ", label=%" G_GINT64_FORMAT ", map=%u numbers", i,
          from[i], n);
      return FALSE;
    }
    to[i] = from[i] < 0 ? from[i] : map[from[i]];
  }
  return TRUE;
}

static const KdTransformDesc kd_relabel = {
  .name = "kdrelabel",
  .title = "Relabel",
  .description = "Replaces labels by a table, such as ten digits by odd and even",
  .source = "of this project",
  .formula = "label' = map[label]",
  .fields = kd_relabel_fields,
  .outputs = kd_relabel_outputs,
  .params = kd_relabel_params,
  .params_size = sizeof (KdRelabelParams),
  .check = kd_relabel_check,
  .evaluate = kd_relabel_evaluate,
};

KD_TRANSFORM_PLUGIN (kd_relabel)
