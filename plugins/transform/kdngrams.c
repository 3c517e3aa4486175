/**
 * SECTION:element-kdngrams
 * @short_description: text as a bag of its character n-grams
 *
 * The text in lower case, white space of any length as one space, a space before and behind it. Each run of `shortest` to `longest` characters adds
 * 1 or -1 to one of `dims` places: its hash (FNV-1a of its UTF-8 bytes, 64 bits, mixed as MurmurHash3 ends) modulo dims, and the hash's highest
 * bit for the sign. So no vocabulary is kept, and what falls on one place cancels on average.
 *
 * ## Fields
 *  - {field} (text): utf8 [N]
 * Adds input: float32 [N, dims], what a student or teacher reads.
 * ## Units
 * counts; with `normalize` rows of Euclidean length 1 (a text without n-grams is all 0).
 * ## Errors
 * longest below shortest (KD_ERROR_RANGE); a text that is not UTF-8 (KD_ERROR_VALUE).
 * ## Source
 * Weinberger et al. 2009, "Feature hashing for large scale multitask learning", equation 1 (ICML; arXiv:0902.2206).
 * ## Example
 * |[ kd launch 'kdh5src location=questions.h5 ! kdngrams field=text dims=4096 longest=4 ! kdh5sink location=bags.h5' ]|
 */
#include <kd/kd.h>
#include <math.h>
#include <string.h>

typedef struct {
  gchar *field;
  gint64 dims, shortest, longest;
  gboolean normalize;
} KdNgramsParams;

static const KdParam kd_ngrams_params[] = {
  KD_PARAM_STRING (KdNgramsParams, field, "text", "Field of the texts"),
  KD_PARAM_INT (KdNgramsParams, dims, 2, 1 << 24, 4096, "Places that n-grams are hashed to"),
  KD_PARAM_INT (KdNgramsParams, shortest, 1, 64, 1, "Characters of the shortest n-grams"),
  KD_PARAM_INT (KdNgramsParams, longest, 1, 64, 3, "Characters of the longest n-grams"),
  KD_PARAM_BOOL (KdNgramsParams, normalize, TRUE, "Rows of length 1 instead of counts"),
  KD_PARAM_END
};

static const KdFieldSpec kd_ngrams_fields[] = {
  { "{field}", KD_UTF8, "N" },
  KD_FIELD_END
};
static const KdFieldSpec kd_ngrams_outputs[] = {
  { "input", KD_FLOAT32, "N {dims}" },
  KD_FIELD_END
};

static gboolean
kd_ngrams_check (gconstpointer params, GError **error)
{
  const KdNgramsParams *p = params;

  if (p->longest >= p->shortest)
    return TRUE;
  g_set_error (error, KD_ERROR, KD_ERROR_RANGE, "Lengths not allowed: element=kdngrams, shortest=%" G_GINT64_FORMAT ", longest=%" G_GINT64_FORMAT ", wanted=longest at least shortest",
      p->shortest, p->longest);
  return FALSE;
}

static guint64
hash_bytes (const gchar *bytes, gsize n)
{
  guint64 hash = G_GUINT64_CONSTANT (0xcbf29ce484222325);

  for (gsize i = 0; i < n; i++)
    hash = (hash ^ (guint8) bytes[i]) * G_GUINT64_CONSTANT (0x100000001b3);
  hash = (hash ^ hash >> 33) * G_GUINT64_CONSTANT (0xff51afd7ed558ccd);
  hash = (hash ^ hash >> 33) * G_GUINT64_CONSTANT (0xc4ceb9fe1a85ec53);
  return hash ^ hash >> 33;
}

static void
append_char (GString *text, GArray *starts, const gchar *bytes, gsize n)
{
  guint start = (guint) text->len;

  g_array_append_val (starts, start);
  g_string_append_len (text, bytes, (gssize) n);
}

/* " in lower case with single spaces " into @ret; its characters begin at the offsets @starts, the last of which is its end. */
static void
fold (const gchar *text, gsize n_bytes, GString *ret, GArray *starts)
{
  g_autofree gchar *lower = g_utf8_strdown (text, (gssize) n_bytes);
  guint end;

  g_string_truncate (ret, 0);
  g_array_set_size (starts, 0);
  append_char (ret, starts, " ", 1);
  for (const gchar *at = lower, *next; *at; at = next) {
    next = g_utf8_next_char (at);
    if (!g_unichar_isspace (g_utf8_get_char (at)))
      append_char (ret, starts, at, (gsize) (next - at));
    else if (ret->str[ret->len - 1] != ' ')
      append_char (ret, starts, " ", 1);
  }
  if (ret->str[ret->len - 1] != ' ')
    append_char (ret, starts, " ", 1);
  end = (guint) ret->len;
  g_array_append_val (starts, end);
}

static void
add_ngrams (const KdNgramsParams *p, const GString *text, const GArray *starts, gfloat *row)
{
  const guint *start = (const guint *) starts->data;
  gint64 n = (gint64) starts->len - 1;
  gdouble sum = 0;

  for (gint64 i = 0; i < n; i++)
    for (gint64 length = p->shortest; length <= p->longest && i + length <= n; length++) {
      guint64 hash = hash_bytes (text->str + start[i], start[i + length] - start[i]);
      row[hash % (guint64) p->dims] += hash >> 63 ? -1.0f : 1.0f;
    }
  for (gint64 v = 0; p->normalize && v < p->dims; v++)
    sum += (gdouble) row[v] * row[v];
  for (gint64 v = 0; sum > 0 && v < p->dims; v++)
    row[v] = (gfloat) (row[v] / sqrt (sum));
}

static gboolean
kd_ngrams_evaluate (const KdCall *call, KdOutputs *ret, GError **error)
{
  const KdNgramsParams *p = call->params;
  const KdTensor *text = call->in[0];
  gint64 dims[] = { call->n_samples, p->dims };
  g_autoptr (GString) folded = g_string_new (NULL);
  g_autoptr (GArray) starts = g_array_new (FALSE, FALSE, sizeof (guint));

  ret->out[0] = kd_tensor_new_zero (KD_FLOAT32, 2, dims);
  for (gint64 n = 0; n < call->n_samples; n++) {
    const gchar *bytes = (const gchar *) text->data + text->offsets[n], *bad;
    gsize n_bytes = (gsize) (text->offsets[n + 1] - text->offsets[n]);

    if (!g_utf8_validate (bytes, (gssize) n_bytes, &bad)) {
      g_set_error (error, KD_ERROR, KD_ERROR_VALUE, "Text is not UTF-8: element=kdngrams, field=%s, row=%" G_GINT64_FORMAT ", byte=%d of %" G_GSIZE_FORMAT "; write it again as UTF-8",
          p->field, n, (int) (bad - bytes), n_bytes);
      return FALSE;
    }
    fold (bytes, n_bytes, folded, starts);
    add_ngrams (p, folded, starts, (gfloat *) ret->out[0]->data + n * p->dims);
  }
  return TRUE;
}

static const KdTransformDesc kd_ngrams = {
  .name = "kdngrams",
  .title = "Character n-grams",
  .description = "Makes a vector of each text: its character n-grams, counted and hashed to a fixed number of places",
  .source = "Weinberger et al. 2009, equation 1 (arXiv:0902.2206)",
  .formula = "input_v = sum of sign (g) over the n-grams g with hash (g) = v",
  .fields = kd_ngrams_fields,
  .outputs = kd_ngrams_outputs,
  .params = kd_ngrams_params,
  .params_size = sizeof (KdNgramsParams),
  .check = kd_ngrams_check,
  .evaluate = kd_ngrams_evaluate,
};

KD_TRANSFORM_PLUGIN (kd_ngrams)
