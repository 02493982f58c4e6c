// What one member of a team will read of the weights, asked for into the second level of the cache before it is needed.
//
// A core waits for only so many lines at once, so every moment in which it asks for none is lost. The stream runs a little ahead
// of the products, from matrix to matrix, and goes on asking while a pass does something else than read weights.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fastdecode {

class WeightStream {
 public:
  // The member reads this too, behind everything that was added before.
  void add(const void* data, int64_t bytes);
  void clear();

  // Between these two the member reads its next share, in order, and says how much it has used.
  void begin_share();
  void use(int64_t bytes) { used_ += bytes; }
  void end_share();

  // While weights are read the stream stays near ahead of them; while none are, it may run as far ahead as is sure to be kept.
  bool near_ahead() const { return asked_ - used_ >= kNear; }
  bool far_ahead() const { return asked_ - used_ >= kFar; }

  // Asks for the next 4 * turns lines, a turn taking one from each quarter of a chunk: the hardware follows every one of them.
  __attribute__((always_inline)) void ask(int turns) {
    for (; turns > 0; --turns) {
      if (turns_ == 0 && !next_chunk()) return;
      for (int i = 0; i < 4; ++i) __builtin_prefetch(next_ + i * quarter_, 0, 2);
      next_ += kLine;
      --turns_;
    }
  }
  // The same while no weights are read.
  __attribute__((always_inline)) void ask_ahead(int turns) {
    if (!far_ahead()) ask(turns);
  }

 private:
  static constexpr int64_t kLine = 64, kChunk = 16 << 10, kNear = 128 << 10, kFar = 384 << 10;
  struct Share {
    const char* data;
    int64_t bytes, before;  // bytes of all shares before
  };
  bool next_chunk();  // false behind the last one
  void skip_to(int64_t position);

  const char* next_ = nullptr;
  int64_t quarter_ = 0, turns_ = 0;  // bytes of a quarter of the chunk; turns left in it
  std::vector<Share> shares_;
  size_t share_ = 0, asking_ = 0;   // that is read; that is asked for
  int64_t asked_ = 0, used_ = 0;    // bytes of all shares together, up to the end of the chunk and of what is read
};

}  // namespace fastdecode
