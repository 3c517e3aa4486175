#include "kd-leaf.h"

#define EMBED "teacher.features.embed"

/* Two classes of two subclasses in width 2, P = I: z_0 = (h_0 - 1, h_1), z_1 = (h_1, -h_0) / 2. */
static void
put_tables (Leaf *leaf)
{
  gint64 dims[3] = { 2, 2, 2 };
  KdTensor *directions = kd_tensor_new (KD_FLOAT32, 3, dims);

  memcpy (directions->data, (const gfloat[]) { 1, 0, 0, 1, 0, 1, -1, 0 }, directions->n_bytes);
  kd_batch_set (leaf->batch, "lelp.directions", directions);
  leaf_put (leaf, "lelp.projector", KD_FLOAT32, 2, 2, 1, 0, 0, 1);
  leaf_put (leaf, "lelp.mean", KD_FLOAT32, 2, 2, 1, 0, 0, 0);
  leaf_put (leaf, "lelp.scale", KD_FLOAT32, 2, 0, 1, 2);
}

/* z_0 = (0, ln 3), z_1 = (ln 3, -1) / 2; the teacher's classes are 3/4 and 1/4. */
static void
one_row (Leaf *leaf, const gchar *properties)
{
  leaf_open (leaf, "kdlelp", properties, 1);
  put_tables (leaf);
  leaf_put (leaf, "student.logits", KD_FLOAT32, 1, 4, 0, 0, log (2), 0);
  leaf_put (leaf, EMBED, KD_FLOAT32, 1, 2, 1, log (3));
  leaf_put (leaf, "teacher.logits", KD_FLOAT32, 1, 2, log (3), 0);
  leaf_put (leaf, "label", KD_INT64, 1, 0, 1);
}

GST_START_TEST (test_value)
{
  g_auto (Leaf) leaf = { 0 };
  gdouble b = 1 / (1 + exp (-0.5 * log (3) - 0.5)), p[4] = { 3.0 / 16, 9.0 / 16, b / 4, (1 - b) / 4 }, q[4] = { 0.2, 0.2, 0.4, 0.2 }, kd = 0;

  for (guint j = 0; j < 4; j++)
    kd += p[j] * log (p[j] / q[j]);
  one_row (&leaf, "subclasses=2 ce-weight=0.25");
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "loss.kd", 0, kd);
  leaf_expect (&leaf, "loss.ce", 0, log (5.0 / 3));
  leaf_expect (&leaf, "loss", 0, 0.75 * kd + 0.25 * log (5.0 / 3));
  for (gsize j = 0; j < 4; j++) {
    leaf_expect (&leaf, "teacher.subclass.probs", j, p[j]);
    leaf_expect (&leaf, "grad.student.logits", j, 0.75 * (q[j] - p[j]) + 0.25 * (q[j] - (j == 2 ? 2.0 / 3 : j == 3 ? 1.0 / 3
                                                                                                                   : 0)));
  }
  leaf_expect (&leaf, "student.class.logits", 0, log (2));
  leaf_expect (&leaf, "student.class.logits", 1, log (3));
}
GST_END_TEST

/* A missing scale is 1; a large beta makes the subclasses of a class alike; without a ce-weight no label is needed. */
GST_START_TEST (test_scale_and_beta)
{
  g_auto (Leaf) leaf = { 0 };

  one_row (&leaf, "subclasses=2");
  kd_batch_remove (leaf.batch, "lelp.scale");
  kd_batch_remove (leaf.batch, "label");
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "teacher.subclass.probs", 2, 0.25 / (1 + exp (-log (3) - 1)));
  leaf_expect (&leaf, "loss.ce", 0, 0);
  one_row (&leaf, "subclasses=2 beta=1e6");
  leaf_run_ok (&leaf);
  leaf_expect (&leaf, "teacher.subclass.probs", 0, 3.0 / 8);
  leaf_expect (&leaf, "teacher.subclass.probs", 3, 1.0 / 8);
}
GST_END_TEST

/* One subclass: plain distillation. */
GST_START_TEST (test_one_subclass)
{
  g_auto (Leaf) leaf = { 0 }, plain = { 0 };
  gint64 dims[3] = { 3, 1, 2 };

  leaf_open (&leaf, "kdlelp", "subclasses=1 temperature=2", 2);
  leaf_put (&leaf, EMBED, KD_FLOAT32, 2, 2, 3, -1, 0.5, 8);
  kd_batch_set (leaf.batch, "lelp.directions", kd_tensor_new_zero (KD_FLOAT32, 3, dims));
  leaf_put (&leaf, "lelp.projector", KD_FLOAT32, 2, 2, 1, 0, 0, 1);
  leaf_put (&leaf, "lelp.mean", KD_FLOAT32, 3, 2, 1, 0, 0, 0, 2, 2);
  leaf_open (&plain, "kdhinton", "ce-weight=0 kd-weight=1 temperature=2", 2);
  for (guint i = 0; i < 2; i++) {
    leaf_put (i ? &plain : &leaf, "student.logits", KD_FLOAT32, 2, 3, 1, 2, 3, -1, 0, 4);
    leaf_put (i ? &plain : &leaf, "teacher.logits", KD_FLOAT32, 2, 3, 3, 2, 0, 1, 1, -2);
    leaf_run_ok (i ? &plain : &leaf);
  }
  leaf_expect (&leaf, "loss", 0, leaf_get (&plain, "loss", 0));
  for (gsize j = 0; j < 6; j++)
    leaf_expect (&leaf, "grad.student.logits", j, leaf_get (&plain, "grad.student.logits", j));
}
GST_END_TEST

GST_START_TEST (test_masked)
{
  g_auto (Leaf) leaf = { 0 };

  one_row (&leaf, "subclasses=2");
  leaf_put (&leaf, "mask", KD_FLOAT32, 1, 0, 0);
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 2, NAN, 0);
  leaf_run_ok (&leaf);
  ck_assert (leaf_get (&leaf, "loss", 0) == 0 && leaf_get (&leaf, "grad.student.logits", 1) == 0 && leaf_get (&leaf, "teacher.subclass.probs", 0) == 0);
}
GST_END_TEST

GST_START_TEST (test_refusals)
{
  g_auto (Leaf) leaf = { 0 };

  one_row (&leaf, "subclasses=2");
  kd_batch_remove (leaf.batch, "lelp.mean");
  leaf_refuses (&leaf, KD_ERROR_FIELD, "Field missing: element=kdlelp, field=lelp.projector, lelp.mean, lelp.directions; set location to a file of kdlelpfit");
  one_row (&leaf, "subclasses=2 ce-weight=0.5");
  kd_batch_remove (leaf.batch, "label");
  leaf_refuses (&leaf, KD_ERROR_FIELD, "field=label, ce-weight=0.5");
  one_row (&leaf, "subclasses=2");
  leaf_put (&leaf, "student.logits", KD_FLOAT32, 1, 5, 0, 0, 0, 0, 0);
  leaf_refuses (&leaf, KD_ERROR_SHAPE, "Sizes differ: element=kdlelp, fit=2 classes of 2 subclasses in width 2, teacher.logits=[N,2], teacher.features.embed=[N,2], "
                                       "student.logits=[N,5], wanted=[N,4]");
  one_row (&leaf, "subclasses=3");
  leaf_refuses (&leaf, KD_ERROR_SHAPE, "field=lelp.directions");
  one_row (&leaf, "subclasses=2");
  leaf_put (&leaf, EMBED, KD_FLOAT32, 1, 3, 1, 2, 3);
  leaf_refuses (&leaf, KD_ERROR_SHAPE, "lelp.projector");
  one_row (&leaf, "subclasses=2");
  leaf_put (&leaf, "lelp.mean", KD_FLOAT32, 1, 2, 1, 0);
  leaf_refuses (&leaf, KD_ERROR_SHAPE, "lelp.mean");
  one_row (&leaf, "subclasses=2");
  leaf_put (&leaf, EMBED, KD_FLOAT32, 1, 2, 1, INFINITY);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "field=" EMBED ", sample.id=0");
  one_row (&leaf, "subclasses=2");
  leaf_put (&leaf, "teacher.logits", KD_FLOAT32, 1, 2, 1, -INFINITY);
  leaf_refuses (&leaf, KD_ERROR_VALUE, "field=teacher.logits");
  one_row (&leaf, "subclasses=2 ce-weight=1");
  leaf_put (&leaf, "label", KD_INT64, 1, 0, 2);
  leaf_refuses (&leaf, KD_ERROR_RANGE, "label=2, classes=2");
}
GST_END_TEST

KD_TESTS (kdlelp, test_value, test_scale_and_beta, test_one_subclass, test_masked, test_refusals)
