#define FD_SIMD_NAMESPACE avx2
#include "ops/cpu/simd_avx2.h"
#include "ops/cpu/residual_body.h"
