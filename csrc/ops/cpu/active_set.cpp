// One comparison per position of a short row: nothing that an instruction set could make faster than memory.
#include "ops/cpu/active_set.h"

#include <stdexcept>
#include <string>

#include "ops/kernel.h"

namespace fastdecode {
namespace scalar {

void active_set(const ActiveSetArgs& a) {
  for (int64_t b = 0; b < a.batch; ++b)
    if (a.low[b] < 0 || a.low[b] > a.high[b] || a.high[b] > a.stride)
      throw std::out_of_range("window " + std::to_string(a.low[b]) + " .. " + std::to_string(a.high[b]) + " of row " + std::to_string(b) + " is not within its " + std::to_string(a.stride) + " positions");
  for (int64_t b = 0; b < a.batch; ++b) {
    int32_t* out = a.positions + b * a.stride;
    int32_t n = 0;
    for (int32_t p = a.low[b]; p < a.high[b]; ++p)
      if (is_active(a, b, p)) out[n++] = p;
    a.count[b] = n;
  }
}

}  // namespace scalar

static const Kernel<void (*)(const ActiveSetArgs&)> kernel("active_set", scalar::active_set);
void active_set(const ActiveSetArgs& args) { kernel.get()(args); }

}  // namespace fastdecode
