// One thread per sequence: a quarter of a canvas at most, once per block.
#pragma once

#include "fastdecode/platform.cuh"
#include "ops/cpu/adaptive_block_size.h"

namespace fastdecode {

FD_KERNEL adaptive_block_size_kernel(AdaptiveBlockSizeArgs a) {
  const int64_t b = block_index() * block_size() + thread_index();
  if (b < a.batch) adaptive_block_size_row(a, b);
}

}  // namespace fastdecode
