/* Philox4x32-10 after Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), and what is drawn from it. */
#include "kd-random.h"
#include <math.h>

#define PHILOX_M0 0xD2511F53u
#define PHILOX_M1 0xCD9E8D57u
#define PHILOX_W0 0x9E3779B9u
#define PHILOX_W1 0xBB67AE85u
#define PHILOX_ROUNDS 10
#define FEISTEL_ROUNDS 8
#define TWO_PI 6.283185307179586476925286766559

void
kd_philox (uint32_t ctr[4], const uint32_t key[2])
{
  uint32_t k0 = key[0], k1 = key[1];

  for (int round = 0; round < PHILOX_ROUNDS; round++) {
    uint64_t a = (uint64_t) PHILOX_M0 * ctr[0], b = (uint64_t) PHILOX_M1 * ctr[2];
    uint32_t c1 = ctr[1], c3 = ctr[3];

    ctr[0] = (uint32_t) (b >> 32) ^ c1 ^ k0;
    ctr[1] = (uint32_t) b;
    ctr[2] = (uint32_t) (a >> 32) ^ c3 ^ k1;
    ctr[3] = (uint32_t) a;
    k0 += PHILOX_W0;
    k1 += PHILOX_W1;
  }
}

uint32_t
kd_random_purpose (const char *name)
{
  uint32_t hash = 2166136261u;

  for (; *name; name++)
    hash = (hash ^ (uint8_t) *name) * 16777619u;
  return hash;
}

/* The seed is the key; purpose, epoch and id fill the counter but for the block number. id's 64 bits and epoch, purpose and block
 * do not fit 128 bits side by side, so purpose and epoch are first mixed into the key by one block of the same function. */
void
kd_random_init (KdRandom *random, uint64_t seed, uint32_t purpose, uint32_t epoch, uint64_t id)
{
  uint32_t key[2] = { (uint32_t) seed, (uint32_t) (seed >> 32) };
  uint32_t mix[4] = { purpose, epoch, 0x6b64u, 0x73747265u };

  kd_philox (mix, key);
  random->key[0] = mix[0];
  random->key[1] = mix[1];
  random->ctr[0] = 0;
  random->ctr[1] = 0;
  random->ctr[2] = (uint32_t) id;
  random->ctr[3] = (uint32_t) (id >> 32);
  for (int i = 0; i < 4; i++)
    random->out[i] = 0;
  random->used = 4;
}

uint32_t
kd_random_u32 (KdRandom *random)
{
  if (random->used >= 4) {
    for (int i = 0; i < 4; i++)
      random->out[i] = random->ctr[i];
    kd_philox (random->out, random->key);
    if (++random->ctr[0] == 0)
      random->ctr[1]++;
    random->used = 0;
  }
  return random->out[random->used++];
}

static uint64_t
random_u64 (KdRandom *random)
{
  uint64_t low = kd_random_u32 (random);

  return low | (uint64_t) kd_random_u32 (random) << 32;
}

double
kd_random_uniform (KdRandom *random)
{
  return (double) (random_u64 (random) >> 11) * 0x1p-53;
}

/* Draws from the part of [0, 2^64) that is a whole number of times n, so that no value is favoured. */
uint64_t
kd_random_below (KdRandom *random, uint64_t n)
{
  uint64_t excess = (uint64_t) -n % n, draw;

  do
    draw = random_u64 (random);
  while (draw < excess);
  return draw % n;
}

double
kd_random_normal (KdRandom *random)
{
  double u = 1.0 - kd_random_uniform (random); /* (0, 1]: the logarithm is finite */
  double v = kd_random_uniform (random);

  return sqrt (-2.0 * log (u)) * cos (TWO_PI * v);
}

double
kd_random_gamma (KdRandom *random, double a)
{
  double boost = 1.0, d, c;

  if (a < 1.0) { /* Gamma (a) = Gamma (a + 1) u^(1/a) */
    boost = pow (1.0 - kd_random_uniform (random), 1.0 / a);
    a += 1.0;
  }
  d = a - 1.0 / 3.0;
  c = 1.0 / sqrt (9.0 * d);
  for (;;) {
    double x = kd_random_normal (random), t = 1.0 + c * x, v = t * t * t, u;

    if (v <= 0.0)
      continue;
    u = 1.0 - kd_random_uniform (random);
    if (log (u) < 0.5 * x * x + d - d * v + d * log (v))
      return boost * d * v;
  }
}

double
kd_random_beta (KdRandom *random, double a, double b)
{
  double x = kd_random_gamma (random, a), y = kd_random_gamma (random, b);

  /* tiny shapes underflow both: the limit is a coin between the ends, heads with a / (a + b) */
  if (x + y <= 0.0)
    return kd_random_uniform (random) < a / (a + b) ? 1.0 : 0.0;
  return x / (x + y);
}

void
kd_permutation_init (KdPermutation *permutation, uint64_t n, uint64_t seed, uint32_t epoch)
{
  KdRandom random;
  uint32_t bits = 1;

  while (bits < 64 && (n - 1) >> bits)
    bits++;
  permutation->n = n;
  permutation->half_bits = (bits + 1) / 2;
  kd_random_init (&random, seed, kd_random_purpose ("permutation"), epoch, n);
  for (int i = 0; i < FEISTEL_ROUNDS; i++)
    for (int j = 0; j < 2; j++)
      permutation->key[i][j] = kd_random_u32 (&random);
}

static uint64_t
feistel (const KdPermutation *permutation, uint64_t x)
{
  uint64_t half = ((uint64_t) 1 << permutation->half_bits) - 1;
  uint64_t left = x >> permutation->half_bits, right = x & half;

  for (int i = 0; i < FEISTEL_ROUNDS; i++) {
    uint32_t word[4] = { (uint32_t) right, (uint32_t) (right >> 32), (uint32_t) i, 0 };
    uint64_t swap = right;

    kd_philox (word, permutation->key[i]);
    right = left ^ (word[0] & half);
    left = swap;
  }
  return left << permutation->half_bits | right;
}

/* The network permutes the next power of four; following its cycles until one is below n again permutes [0, n). Less than four steps on average. */
uint64_t
kd_permutation_at (const KdPermutation *permutation, uint64_t i)
{
  if (permutation->n < 2)
    return 0;
  do
    i = feistel (permutation, i);
  while (i >= permutation->n);
  return i;
}
