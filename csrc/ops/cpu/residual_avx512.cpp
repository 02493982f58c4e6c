#define FD_SIMD_NAMESPACE avx512
#include "ops/cpu/simd_avx512.h"
#include "ops/cpu/residual_body.h"
