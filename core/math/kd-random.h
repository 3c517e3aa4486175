/* Counter-based random numbers (Philox4x32-10, Salmon et al., SC 2011) and the seekable permutation.
 * Plain C: what is drawn depends only on the key and the position, never on threads, batch size or restarts. */
#pragma once
#include <stdint.h>

#ifndef KD_API
#define KD_API __attribute__ ((visibility ("default")))
#endif

/** kd_philox: the block function; @ctr is replaced by four random words. */
KD_API void kd_philox (uint32_t ctr[4], const uint32_t key[2]);

/** KdRandom: one stream. Copy it freely; a copy continues on its own. */
typedef struct {
  uint32_t key[2];
  uint32_t ctr[4];
  uint32_t out[4];
  uint32_t used;
} KdRandom;

/**
 * kd_random_init: the stream of (@seed, @purpose, @epoch, @id).
 * @purpose: what is drawn; kd_random_purpose ("kdcrop") of a constant string
 * @id: sample id (or any number that tells streams apart)
 */
KD_API void kd_random_init (KdRandom *random, uint64_t seed, uint32_t purpose, uint32_t epoch, uint64_t id);
/** kd_random_purpose: a 32-bit number for a name (FNV-1a). */
KD_API uint32_t kd_random_purpose (const char *name);

KD_API uint32_t kd_random_u32 (KdRandom *random);
/** kd_random_uniform: [0, 1), 53 bits. */
KD_API double kd_random_uniform (KdRandom *random);
/** kd_random_below: uniform in [0, n), unbiased; n > 0. */
KD_API uint64_t kd_random_below (KdRandom *random, uint64_t n);
/** kd_random_normal: mean 0, variance 1 (Box-Muller). */
KD_API double kd_random_normal (KdRandom *random);
/** kd_random_gamma: shape @a > 0, scale 1 (Marsaglia and Tsang 2000). */
KD_API double kd_random_gamma (KdRandom *random, double a);
/** kd_random_beta: Beta(@a, @b) from two gammas. */
KD_API double kd_random_beta (KdRandom *random, double a, double b);

/** KdPermutation: a permutation of [0, n) that answers any position at once (Feistel network with cycle walking). */
typedef struct {
  uint64_t n;
  uint32_t half_bits;
  uint32_t key[8][2];
} KdPermutation;

KD_API void kd_permutation_init (KdPermutation *permutation, uint64_t n, uint64_t seed, uint32_t epoch);
/** kd_permutation_at: image of @i < n. */
KD_API uint64_t kd_permutation_at (const KdPermutation *permutation, uint64_t i);
