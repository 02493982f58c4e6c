#define FD_SIMD_NAMESPACE avx512bf16
#include "runtime/step_bytes_vnni.h"
#include "runtime/step_elements_avx512.h"
#include "runtime/step_pairs_bf16.h"

namespace fastdecode {
namespace FD_SIMD_NAMESPACE {

static const int kRows = 6, kPanels = 4;  // 24 sums, 4 weights, 1 input

}  // namespace FD_SIMD_NAMESPACE
}  // namespace fastdecode

#include "runtime/step_kernels_body.h"
