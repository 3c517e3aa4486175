/* Internal to core/math: rows of few logits, many at a time: a row a lane. */
#pragma once
#include "kd-divergence.h"
#include "kd-xent.h"

/* Logits of a row up to which it is narrow: a loop over it would be shorter than what stands around it. */
#define KD_NARROW 32

/** kd_narrow_divergence_rows: forward and reverse KL (with the teacher's entropy) of rows of at most KD_NARROW. */
void kd_narrow_divergence_rows (const KdDivergence *call);

/** kd_narrow_xent_rows: cross-entropy with labels of rows of at most KD_NARROW. @exact: what makes a row whose value is not finite. */
void kd_narrow_xent_rows (const KdXent *call, double (*exact) (const KdXent *call, int64_t row));
