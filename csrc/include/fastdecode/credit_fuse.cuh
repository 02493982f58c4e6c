// One thread per row: rows are few and short.
#pragma once

#include "fastdecode/platform.cuh"
#include "ops/cpu/credit_fuse.h"

namespace fastdecode {

FD_KERNEL credit_fuse_kernel(CreditFuseArgs a) {
  const int64_t r = block_index() * block_size() + thread_index();
  if (r < a.rows) credit_fuse_row(a, r);
}

}  // namespace fastdecode
