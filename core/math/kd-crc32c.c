/* CRC-32C: the processor's instruction where there is one, tables elsewhere. */
#include "kd-crc32c.h"

#include <string.h>

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

#define POLYNOMIAL 0x82f63b78u

/* Tables for eight bytes at a time; row k is the effect of a byte followed by k zero bytes. Filled before main: no lock. */
static uint32_t table[8][256];

static void
fill_table (void)
{
  for (uint32_t i = 0; i < 256; i++) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; bit++)
      crc = crc & 1 ? crc >> 1 ^ POLYNOMIAL : crc >> 1;
    table[0][i] = crc;
  }
  for (uint32_t i = 0; i < 256; i++)
    for (int k = 1; k < 8; k++)
      table[k][i] = table[k - 1][i] >> 8 ^ table[0][table[k - 1][i] & 0xff];
}

static uint32_t
crc_tables (uint32_t crc, const uint8_t *data, size_t n)
{
  for (; n >= 8; n -= 8, data += 8) {
    uint32_t low, high;
    memcpy (&low, data, 4);
    memcpy (&high, data + 4, 4);
    low ^= crc;
    crc = table[7][low & 0xff] ^ table[6][low >> 8 & 0xff] ^ table[5][low >> 16 & 0xff] ^ table[4][low >> 24] ^
        table[3][high & 0xff] ^ table[2][high >> 8 & 0xff] ^ table[1][high >> 16 & 0xff] ^ table[0][high >> 24];
  }
  for (; n; n--, data++)
    crc = crc >> 8 ^ table[0][(crc ^ *data) & 0xff];
  return crc;
}

#if defined(__x86_64__)
/* Three streams hide the instruction's latency of three cycles; their results are joined by carrying the earlier ones over the
 * later stream's length, which for a fixed length is a table look-up. */
#define STREAM_BYTES 1024

static uint32_t shift[2][4][256]; /* over one and over two streams */

static uint32_t
over_zeros (uint32_t crc, size_t n)
{
  static const uint8_t zeros[64];

  for (; n; n -= sizeof zeros)
    crc = crc_tables (crc, zeros, sizeof zeros);
  return crc;
}

static void
fill_shift (void)
{
  for (uint32_t k = 0; k < 4; k++)
    for (uint32_t i = 0; i < 256; i++) {
      shift[0][k][i] = over_zeros (i << 8 * k, STREAM_BYTES);
      shift[1][k][i] = over_zeros (shift[0][k][i], STREAM_BYTES);
    }
}

static inline uint32_t
carry (uint32_t (*t)[256], uint32_t crc)
{
  return t[0][crc & 0xff] ^ t[1][crc >> 8 & 0xff] ^ t[2][crc >> 16 & 0xff] ^ t[3][crc >> 24];
}

__attribute__ ((target ("sse4.2"))) static uint32_t
crc_sse42 (uint32_t crc, const uint8_t *data, size_t n)
{
  uint64_t a = crc, word[3];

  for (; n >= 3 * STREAM_BYTES; n -= 3 * STREAM_BYTES, data += 3 * STREAM_BYTES) {
    uint64_t b = 0, c = 0;
    for (size_t i = 0; i < STREAM_BYTES; i += 8) {
      memcpy (&word[0], data + i, 8);
      memcpy (&word[1], data + STREAM_BYTES + i, 8);
      memcpy (&word[2], data + 2 * STREAM_BYTES + i, 8);
      a = _mm_crc32_u64 (a, word[0]);
      b = _mm_crc32_u64 (b, word[1]);
      c = _mm_crc32_u64 (c, word[2]);
    }
    a = carry (shift[1], (uint32_t) a) ^ carry (shift[0], (uint32_t) b) ^ (uint32_t) c;
  }
  for (; n >= 8; n -= 8, data += 8) {
    memcpy (&word[0], data, 8);
    a = _mm_crc32_u64 (a, word[0]);
  }
  for (; n; n--, data++)
    a = _mm_crc32_u8 ((uint32_t) a, *data);
  return (uint32_t) a;
}
#endif

__attribute__ ((constructor)) static void
fill (void)
{
  fill_table ();
#if defined(__x86_64__)
  fill_shift ();
#endif
}

uint32_t
kd_crc32c (uint32_t crc, const void *data, size_t n)
{
#if defined(__x86_64__)
  if (__builtin_cpu_supports ("sse4.2"))
    return ~crc_sse42 (~crc, data, n);
#endif
  return ~crc_tables (~crc, data, n);
}
