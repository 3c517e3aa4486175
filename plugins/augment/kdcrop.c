/**
 * SECTION:element-kdcrop
 * @short_description: random crop and flip of images
 *
 * Each image is padded with zeros by `padding` on all sides, a window of the old size is cut at a random place, and with probability
 * `flip` it is mirrored left to right. All draws come from the sample's own stream and view.
 *
 * ## Fields
 *  - {field} (input): any number type [N C H W], replaced
 * Adds sample.view (base): with `views` above 0 a teacher cache can hold every view.
 * ## Units
 * padding in pixels.
 * ## Errors
 * None of its own.
 * ## Source
 * arXiv:1512.03385, section 4.2: 4 pixels and flips on CIFAR.
 * ## Example
 * |[ kd launch 'kdh5src location=cifar.h5 ! kdcrop padding=4 flip=0.5 views=8 ! kdh5sink location=views.h5' ]|
 */
#include <kd/kd.h>
#include <string.h>

typedef struct {
  gint64 padding;
  gdouble flip;
  gchar *field;
} KdCropParams;

static const KdParam kd_crop_params[] = {
  KD_PARAM_INT (KdCropParams, padding, 0, 4096, 4, "Pixels of zeros on each side before the crop"),
  KD_PARAM_DOUBLE (KdCropParams, flip, 0.0, 1.0, 0.5, "Probability of mirroring left to right"),
  KD_PARAM_STRING (KdCropParams, field, "input", "Field with the images"),
  KD_PARAM_END
};

static const KdFieldSpec kd_crop_fields[] = {
  { "{field}", KD_ANY_NUMBER, "N C H W" },
  KD_FIELD_END
};
static const KdFieldSpec kd_crop_outputs[] = {
  { "{field}", 0, "N C H W" },
  KD_FIELD_END
};

/* One line of the window: @shift columns to the right of the image's own, zeros outside, mirrored or not. */
static void
crop_line (const guint8 *from, guint8 *to, gint64 width, gint64 shift, gboolean flip, gsize size)
{
  gint64 first = MAX (0, -shift), last = MIN (width, width - shift);

  memset (to, 0, (gsize) width * size);
  if (first >= last)
    return;
  if (!flip) {
    memcpy (to + (gsize) first * size, from + (gsize) (first + shift) * size, (gsize) (last - first) * size);
    return;
  }
  for (gint64 x = first; x < last; x++)
    memcpy (to + (gsize) (width - 1 - x) * size, from + (gsize) (x + shift) * size, size);
}

static gboolean
kd_crop_evaluate (const KdCall *call, KdOutputs *ret, GError **error)
{
  const KdCropParams *p = call->params;
  gint64 channels = kd_call_size (call, 'C'), height = kd_call_size (call, 'H'), width = kd_call_size (call, 'W');
  gsize size = kd_dtype_size (call->in[0]->dtype), line = (gsize) width * size;

  for (gint64 n = 0; n < call->n_samples; n++) {
    const guint8 *from = (const guint8 *) call->in[0]->data + (gsize) (n * channels * height) * line;
    guint8 *to = (guint8 *) ret->out[0]->data + (gsize) (n * channels * height) * line;
    KdRandom random;
    gint64 down, right;
    gboolean flip;

    kd_call_random (call, n, &random);
    down = (gint64) kd_random_below (&random, (guint64) (2 * p->padding + 1)) - p->padding;
    right = (gint64) kd_random_below (&random, (guint64) (2 * p->padding + 1)) - p->padding;
    flip = kd_random_uniform (&random) < p->flip;
    for (gint64 y = 0; y < channels * height; y++) {
      gint64 in_y = y % height + down;
      if (in_y < 0 || in_y >= height)
        memset (to + (gsize) y * line, 0, line);
      else
        crop_line (from + (gsize) (y + down) * line, to + (gsize) y * line, width, right, flip, size);
    }
  }
  return TRUE;
}

static const KdAugmentDesc kd_crop = {
  .name = "kdcrop",
  .title = "Random crop and flip",
  .description = "Cuts a random window from zero-padded images and mirrors some of them",
  .source = "arXiv:1512.03385 section 4.2",
  .formula = "x'[c, y, w] = x[c, y + dy, w + dx], 0 outside; dx, dy uniform in [-padding, padding]; mirrored with probability flip",
  .fields = kd_crop_fields,
  .params = kd_crop_params,
  .params_size = sizeof (KdCropParams),
  .outputs = kd_crop_outputs,
  .evaluate = kd_crop_evaluate,
};

KD_AUGMENT_PLUGIN (kd_crop)
