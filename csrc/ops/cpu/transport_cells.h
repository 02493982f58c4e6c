// The histogram that transport_body.h fills, in the namespace of one instruction set.
#pragma once

#include "ops/cpu/transport.h"

namespace fastdecode {
namespace FD_SIMD_NAMESPACE {

// Whole mass and upper part of tokens, side by side: one vector addition takes both to the token's cell.
struct alignas(16) Cell {
  uint64_t whole, upper;  // they wrap where rows are far from laws
};

static const int kCopies = 2;  // of the histogram: neighbours that fall into one cell do not wait for each other
typedef Cell Cells[kCopies][kKnots];

}  // namespace FD_SIMD_NAMESPACE
}  // namespace fastdecode
