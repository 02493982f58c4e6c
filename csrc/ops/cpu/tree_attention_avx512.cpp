#define FD_SIMD_NAMESPACE avx512
#include "ops/cpu/simd_avx512.h"
#include "ops/cpu/tree_attention_body.h"
