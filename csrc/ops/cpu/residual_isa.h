// The versions of the residual passes for single instruction sets.
#pragma once

#include "ops/cpu/residual.h"

namespace fastdecode {
namespace avx2 {
int32_t race_row(const ResidualRow& row, const Stream& stream);
}
namespace avx512 {
int32_t race_row(const ResidualRow& row, const Stream& stream);
}
}  // namespace fastdecode
