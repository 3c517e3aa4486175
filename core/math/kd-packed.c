/* Ids of a vocabulary in few bits (Elias and Fano): k ascending numbers below U take k log2 (U / k) + 2 k bits, less than the k log2 U of
 * plain bits, and every row has the same size. The l low bits of each number lie one behind the other; the high parts follow as a row
 * of bits in which the i-th one stands at (number >> l) + i. Bits are counted from the lowest of the first byte. */
#include "kd-packed.h"
#include <string.h>

static unsigned
low_bits (int64_t size, int64_t universe)
{
  return universe > size ? 63 - (unsigned) __builtin_clzll ((uint64_t) (universe / size)) : 0;
}

size_t
kd_packed_bytes (int64_t size, int64_t universe)
{
  unsigned low = low_bits (size, universe);

  return ((size_t) size * (low + 1) + (size_t) ((universe - 1) >> low) + 1 + 7) / 8;
}

void
kd_pack_ids (const int64_t *ids, int64_t size, int64_t universe, uint8_t *to)
{
  unsigned low = low_bits (size, universe);
  size_t at = 0, high = (size_t) size * low;

  memset (to, 0, kd_packed_bytes (size, universe));
  for (int64_t i = 0; i < size; i++) {
    uint64_t number = (uint64_t) (ids[i] + 1);
    size_t place = high + (size_t) (number >> low) + (size_t) i;
    for (unsigned b = 0; b < low; b++, at++)
      to[at >> 3] |= (uint8_t) (((number >> b) & 1) << (at & 7));
    to[place >> 3] |= (uint8_t) (1u << (place & 7));
  }
}

/* @width <= 40 bits at bit @at; bytes behind @n are taken to be 0. */
static inline uint64_t
bits_at (const uint8_t *from, size_t n, size_t at, unsigned width)
{
  uint64_t word = 0;
  size_t byte = at >> 3;

  if (n - byte >= 8 && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__)
    memcpy (&word, from + byte, sizeof word);
  else
    for (size_t i = 0; i < 8 && byte + i < n; i++)
      word |= (uint64_t) from[byte + i] << (8 * i);
  return word >> (at & 7) & (((uint64_t) 1 << width) - 1);
}

int
kd_unpack_ids (const uint8_t *from, int64_t size, int64_t universe, int64_t *ids)
{
  unsigned low = low_bits (size, universe);
  size_t n = kd_packed_bytes (size, universe), high = (size_t) size * low, n_high = (size_t) size + (size_t) ((universe - 1) >> low) + 1;
  int64_t found = 0;

  for (size_t at = 0; at < n_high; at += 32) {
    uint64_t word = bits_at (from, n, high + at, (unsigned) (n_high - at < 32 ? n_high - at : 32));
    for (; word; word &= word - 1, found++) {
      int64_t upper = (int64_t) at + __builtin_ctzll (word) - found;
      if (found >= size)
        return 0;
      ids[found] = (upper << low | (int64_t) (low ? bits_at (from, n, (size_t) found * low, low) : 0)) - 1;
      if (ids[found] > universe - 2 || (found && ids[found] < ids[found - 1]))
        return 0;
    }
  }
  return found == size;
}
