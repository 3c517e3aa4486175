/* Rows of ascending ids in few bits (Elias and Fano 1974): about log2 (U / k) + 2 bits an id, the same size for every row. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#ifndef KD_API
#define KD_API __attribute__ ((visibility ("default")))
#endif

/** kd_packed_bytes: of a row of @size ids (at least 1), each at least -1 and below @universe - 1. */
KD_API size_t kd_packed_bytes (int64_t size, int64_t universe);
/** kd_pack_ids: @to [kd_packed_bytes] of @ids [size], ascending (equal ones may follow one another). */
KD_API void kd_pack_ids (const int64_t *ids, int64_t size, int64_t universe, uint8_t *to);
/** kd_unpack_ids: 0 when @from is nothing that kd_pack_ids made; @ids then hold anything. */
KD_API int kd_unpack_ids (const uint8_t *from, int64_t size, int64_t universe, int64_t *ids);
