// Copies of one head's vector at a time: memcpy is the fastest version on every instruction set.
#include "ops/cpu/kv_write.h"

#include <cstring>
#include <stdexcept>
#include <string>

#include "ops/kernel.h"
#include "runtime/parallel.h"

namespace fastdecode {
namespace scalar {

void kv_write(const KvWriteArgs& a) {
  for (int64_t b = 0; b < a.batch; ++b) {
    if (a.rows[b] < 0 || a.rows[b] >= a.slot_rows) throw std::out_of_range("rows of batch row " + std::to_string(b) + " is " + std::to_string(a.rows[b]) + ", outside the buffer's " + std::to_string(a.slot_rows) + " rows");
    for (int64_t n = 0; n < a.count; ++n) {
      const int64_t slot = a.positions[b * a.count + n];
      if (slot < 0 || slot >= a.slots) throw std::out_of_range("positions of batch row " + std::to_string(b) + " holds " + std::to_string(slot) + ", outside the buffer's " + std::to_string(a.slots) + " slots");
    }
  }
  parallel_for(a.batch * a.heads, 1 + 65536 / (1 + a.count * a.dim_bytes), [&](int64_t begin, int64_t end, int) {
    for (int64_t lane = begin; lane < end; ++lane) {
      const int64_t b = lane / a.heads, head = lane % a.heads;
      const char* from = a.states + b * a.state_row_stride + head * a.state_head_stride;
      char* to = a.buffer + a.rows[b] * a.row_stride + head * a.head_stride;
      for (int64_t n = 0; n < a.count; ++n) std::memcpy(to + a.positions[b * a.count + n] * a.slot_stride, from + n * a.state_token_stride, size_t(a.dim_bytes));
    }
  });
}

}  // namespace scalar

static const Kernel<void (*)(const KvWriteArgs&)> kernel("kv_write", scalar::kv_write);
void kv_write(const KvWriteArgs& args) { kernel.get()(args); }

}  // namespace fastdecode
