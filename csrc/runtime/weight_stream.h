// What one member of a team will read of the weights, asked for into the second level of the cache before it is needed.
//
// A core waits for only so many lines at once, so every moment in which it asks for none is lost. The stream runs a little ahead
// of the products, from matrix to matrix, and goes on asking while a pass does something else than read weights.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fastdecode {

constexpr int64_t kLine = 64;

struct WeightStream {
  // Four lines a turn, one from each quarter of a chunk: the hardware follows every one of them.
  const char* next = nullptr;
  int64_t quarter = 0, turns = 0;  // bytes between the lines of a turn; turns left in the chunk

  // The pass reads this too, behind everything that was added before.
  void add(const void* data, int64_t bytes);
  void clear();

  // Between these two the member reads its next share, in order.
  void begin_share();
  void end_share();

  bool next_chunk();  // false behind the last one
  // While weights are read the stream stays near ahead of them; while none are, it may run as far ahead as is sure to be kept.
  bool near_ahead() const { return asked - used >= kNear; }
  bool far_ahead() const { return asked - used >= kFar; }
  void use(int64_t bytes) { used += bytes; }

 private:
  static constexpr int64_t kNear = 128 << 10, kFar = 384 << 10, kChunk = 16 << 10;
  struct Share {
    const char* data;
    int64_t bytes, before;  // bytes of all shares before
  };
  void skip_to(int64_t position);

  std::vector<Share> shares;
  size_t share = 0, asking = 0;  // that is read; that is asked for
  int64_t asked = 0, used = 0;   // bytes of all shares together, up to the end of the chunk and of what is read
};

// Asks for the next 4 * turns lines.
__attribute__((always_inline)) inline void ask(WeightStream& s, int turns) {
  for (; turns > 0; --turns) {
    if (s.turns == 0 && !s.next_chunk()) return;
    for (int i = 0; i < 4; ++i) __builtin_prefetch(s.next + i * s.quarter, 0, 2);
    s.next += kLine;
    --s.turns;
  }
}

// The same while nothing is read.
__attribute__((always_inline)) inline void ask_ahead(WeightStream& s, int turns) {
  if (!s.far_ahead()) ask(s, turns);
}

}  // namespace fastdecode
