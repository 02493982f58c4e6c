#define FD_SIMD_NAMESPACE avx512bf16
#include "runtime/step_bytes_vnni.h"
#include "runtime/step_elements_avx512.h"
#include "runtime/step_pairs_bf16.h"
#include "runtime/step_weigh_bf16.h"

namespace fastdecode {
namespace FD_SIMD_NAMESPACE {

template <class T>
struct Shape;
template <>
struct Shape<float> {
  static const int rows = 28, sums = 2, wide = 14;  // 28 vectors of sums, 2 of weights; inputs are broadcast as they are read
};
template <>
struct Shape<uint16_t> {
  static const int rows = 28, sums = 1, wide = 14;
};
template <>
struct Shape<int8_t> {
  static const int rows = 14, sums = 1, wide = 7;  // sums of high and of low bytes
};

}  // namespace FD_SIMD_NAMESPACE
}  // namespace fastdecode

#define FD_BF16_WEIGHTS softmax<uint16_t>, 2, weigh_pairs, 2
#include "runtime/step_kernels_body.h"
