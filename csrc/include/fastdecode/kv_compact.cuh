// One block per buffer, batch row and head. Each thread owns fixed columns and copies them for ascending j, so a source is never
// overwritten before it is read and no barrier is needed.
#pragma once

#include "fastdecode/platform.cuh"
#include "ops/cpu/kv_compact.h"

namespace fastdecode {

struct alignas(16) Chunk16 {
  uint32_t words[4];
};

template <class Word>
FD_DEVICE void compact_lane(const KvCompactArgs& a, char* first, int64_t start, const int32_t* path, int32_t accepted) {
  for (int64_t column = thread_index(); column < a.dim_bytes / int64_t(sizeof(Word)); column += block_size())
    for (int64_t j = 1; j <= accepted; ++j) {
      const int64_t node = path[j];
      if (node <= j || start + node >= a.slots) continue;  // in place already, or outside: a check on the host would stall the stream
      reinterpret_cast<Word*>(first + j * a.slot_stride)[column] = reinterpret_cast<const Word*>(first + node * a.slot_stride)[column];
    }
}

FD_KERNEL kv_compact_kernel(KvCompactArgs a) {
  const int64_t lane = block_index(), head = lane % a.heads, b = lane / a.heads % a.batch, buffer = lane / a.heads / a.batch;
  const int64_t row = a.rows[b], start = a.lengths[b];
  if (row < 0 || row >= a.slot_rows || start < 0 || a.accept_len[b] >= a.nodes) return;
  char* first = reinterpret_cast<char*>(a.buffers[buffer]) + row * a.row_stride + head * a.head_stride + start * a.slot_stride;
  const uint64_t alignment = uint64_t(a.buffers[buffer]) | uint64_t(a.row_stride) | uint64_t(a.head_stride) | uint64_t(a.slot_stride) | uint64_t(a.dim_bytes);
  const int32_t* path = a.path + b * a.nodes;
  if (alignment % 16 == 0) compact_lane<Chunk16>(a, first, start, path, a.accept_len[b]);
  else if (alignment % 4 == 0) compact_lane<uint32_t>(a, first, start, path, a.accept_len[b]);
  else compact_lane<unsigned char>(a, first, start, path, a.accept_len[b]);
}

}  // namespace fastdecode
