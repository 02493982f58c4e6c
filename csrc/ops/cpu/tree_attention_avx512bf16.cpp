#define FD_SIMD_NAMESPACE avx512bf16
#define FD_PAIR_DOT
#include "ops/cpu/simd_avx512.h"
#include "ops/cpu/tree_attention_body.h"
