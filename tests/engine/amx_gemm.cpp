// The AMX products with emulated tiles, for tests/engine/test_amx.py.
#define FD_AMX_EMULATED
#include "runtime/step_kernels_amx.cpp"

using namespace fastdecode;

extern "C" void amx_gemm(int bytes, const void* a, int64_t lda, const void* w, int64_t rows, int64_t depth, int64_t panel_begin, int64_t panel_end, int epilogue, float* out, int64_t ldo, const float* bias, void* gated, int64_t ld_gated) {
  (bytes ? amx::i8_kernels : amx::bf16_kernels).gemm({a, lda, w, rows, depth, panel_begin, panel_end, Epilogue(epilogue), out, ldo, bias, gated, ld_gated});
}

extern "C" void byte_input(const float* x, int64_t n, int64_t depth, void* out) { amx::i8_kernels.input(x, n, depth, out); }
