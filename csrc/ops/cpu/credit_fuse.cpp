// Sixteen numbers per row: the pass over the logits is elsewhere.
#include "ops/cpu/credit_fuse.h"

#include "ops/kernel.h"

namespace fastdecode {
namespace scalar {

void credit_fuse(const CreditFuseArgs& a) {
  for (int64_t r = 0; r < a.rows; ++r) credit_fuse_row(a, r);
}

}  // namespace scalar

static const Kernel<void (*)(const CreditFuseArgs&)> kernel("credit_fuse", scalar::credit_fuse);
void credit_fuse(const CreditFuseArgs& args) { kernel.get()(args); }

}  // namespace fastdecode
