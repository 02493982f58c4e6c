// A few short copies per head: memcpy is the fastest version on every instruction set.
#include "ops/cpu/kv_compact.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "ops/kernel.h"
#include "runtime/parallel.h"

namespace fastdecode {
namespace {

void check(const KvCompactArgs& a) {
  const auto fail = [](int64_t b, const char* name, int64_t value, const std::string& bound) {
    throw std::out_of_range(std::string(name) + " of batch row " + std::to_string(b) + " is " + std::to_string(value) + ", outside " + bound);
  };
  for (int64_t b = 0; b < a.batch; ++b) {
    if (a.rows[b] < 0 || a.rows[b] >= a.slot_rows) fail(b, "rows", a.rows[b], "the buffers' " + std::to_string(a.slot_rows) + " rows");
    if (a.accept_len[b] < 0 || a.accept_len[b] >= a.nodes) fail(b, "accept_len", a.accept_len[b], "0 ... " + std::to_string(a.nodes - 1));
    if (a.lengths[b] < 0) fail(b, "lengths", a.lengths[b], "the buffers' slots");
    for (int64_t j = 1; j <= a.accept_len[b]; ++j) {
      const int32_t node = a.path[b * a.nodes + j];
      if (node < j) fail(b, "path", node, "ascending node numbers");
      if (a.lengths[b] + int64_t(node) >= a.slots) fail(b, "lengths + path", a.lengths[b] + int64_t(node), "the buffers' " + std::to_string(a.slots) + " slots");
    }
  }
}

}  // namespace

namespace scalar {

void kv_compact(const KvCompactArgs& a) {
  check(a);
  const int64_t lanes = a.count * a.batch * a.heads, lane_bytes = a.nodes * a.dim_bytes;
  parallel_for(lanes, 65536 / std::max<int64_t>(1, lane_bytes) + 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t lane = begin; lane < end; ++lane) {
      const int64_t head = lane % a.heads, b = lane / a.heads % a.batch, buffer = lane / a.heads / a.batch;
      char* first = reinterpret_cast<char*>(a.buffers[buffer]) + a.rows[b] * a.row_stride + head * a.head_stride + a.lengths[b] * a.slot_stride;
      // Ascending j never overwrites a source that is still needed: path[j] >= j, and both ascend.
      for (int64_t j = 1; j <= a.accept_len[b]; ++j) {
        const int64_t node = a.path[b * a.nodes + j];
        if (node != j) std::memcpy(first + j * a.slot_stride, first + node * a.slot_stride, size_t(a.dim_bytes));
      }
    }
  });
}

}  // namespace scalar

static const Kernel<void (*)(const KvCompactArgs&)> kernel("kv_compact", scalar::kv_compact);
void kv_compact(const KvCompactArgs& args) { kernel.get()(args); }

}  // namespace fastdecode
