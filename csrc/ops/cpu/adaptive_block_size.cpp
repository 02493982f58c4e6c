// A few comparisons per row.
#include "ops/cpu/adaptive_block_size.h"

#include "ops/kernel.h"

namespace fastdecode {
namespace scalar {

void adaptive_block_size(const AdaptiveBlockSizeArgs& a) {
  for (int64_t b = 0; b < a.batch; ++b) adaptive_block_size_row(a, b);
}

}  // namespace scalar

static const Kernel<void (*)(const AdaptiveBlockSizeArgs&)> kernel("adaptive_block_size", scalar::adaptive_block_size);
void adaptive_block_size(const AdaptiveBlockSizeArgs& args) { kernel.get()(args); }

}  // namespace fastdecode
