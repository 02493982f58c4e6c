#include "runtime/bandwidth.h"

#include <atomic>
#include <chrono>

#include "runtime/parallel.h"

namespace fastdecode {
namespace {

template <int Locality>
double read(const uint64_t* data, int64_t words) {
  std::atomic<uint64_t> sink{0};
  const auto start = std::chrono::steady_clock::now();
  parallel_for(words / 8, 1 << 17, [&](int64_t begin, int64_t end, int) {
    uint64_t sums[8] = {};
    for (int64_t line = begin; line < end; ++line) {
      __builtin_prefetch(data + (line + 32) * 8, 0, Locality);
      for (int i = 0; i < 8; ++i) sums[i] += data[line * 8 + i];
    }
    for (uint64_t s : sums) sink.fetch_add(s, std::memory_order_relaxed);
  });
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

double read_seconds(const uint64_t* data, int64_t words, bool once) { return once ? read<0>(data, words) : read<3>(data, words); }

}  // namespace fastdecode
