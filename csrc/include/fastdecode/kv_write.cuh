// One block per batch row and head; neighbouring threads copy neighbouring words.
#pragma once

#include "fastdecode/platform.cuh"
#include "ops/cpu/kv_write.h"

namespace fastdecode {

template <class Word>
FD_DEVICE void write_lane(const KvWriteArgs& a, const char* from, char* to, const int64_t* positions) {
  const int64_t words = a.dim_bytes / int64_t(sizeof(Word));
  for (int64_t i = thread_index(); i < a.count * words; i += block_size()) {
    const int64_t n = i / words, slot = positions[n], column = i % words;
    if (slot < 0 || slot >= a.slots) continue;  // a check on the host would stall the stream
    reinterpret_cast<Word*>(to + slot * a.slot_stride)[column] = reinterpret_cast<const Word*>(from + n * a.state_token_stride)[column];
  }
}

FD_KERNEL kv_write_kernel(KvWriteArgs a) {
  const int64_t b = block_index() / a.heads, head = block_index() % a.heads;
  if (a.rows[b] < 0 || a.rows[b] >= a.slot_rows) return;
  const char* from = a.states + b * a.state_row_stride + head * a.state_head_stride;
  char* to = a.buffer + a.rows[b] * a.row_stride + head * a.head_stride;
  const uint64_t alignment = uint64_t(from) | uint64_t(to) | uint64_t(a.state_token_stride) | uint64_t(a.slot_stride) | uint64_t(a.dim_bytes);
  const int64_t* positions = a.positions + b * a.count;
  if (alignment % 4 == 0) write_lane<uint32_t>(a, from, to, positions);
  else if (alignment % 2 == 0) write_lane<uint16_t>(a, from, to, positions);
  else write_lane<unsigned char>(a, from, to, positions);
}

}  // namespace fastdecode
