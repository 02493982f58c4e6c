// The AMX products, with FD_AMX_EMULATED on emulated tiles, for tests/engine/test_amx.py.
#include "runtime/step_kernels_amx.cpp"
#include "runtime/weight_stream.cpp"

using namespace fastdecode;

extern "C" void amx_gemm(int bytes, const void* a, int64_t lda, const void* w, int64_t rows, int64_t depth, int64_t panel_begin, int64_t panel_end, int epilogue, float* out, int64_t ldo, const float* bias, void* gated, int64_t ld_gated) {
  const StepKernels& kernels = bytes ? amx::i8_kernels : amx::bf16_kernels;
  WeightStream stream;  // that ends before the weights do
  stream.add(w, panel_end * panel_bytes(kernels.element, depth) / 2);
  stream.begin_share();
  kernels.gemm({a, lda, w, rows, depth, panel_begin, panel_end, Epilogue(epilogue), out, ldo, bias, gated, ld_gated, rows % 2 ? &stream : nullptr, rows % 3 == 0});
}

extern "C" void amx_weigh(const void* p, int64_t ldp, const void* v, const int32_t* slots, int64_t dim, int64_t rows, int64_t begin, int64_t end, float* out) { amx::bf16_kernels.weigh({p, ldp, v, slots, dim, rows, begin, end, out, dim}); }

extern "C" void byte_input(const float* x, int64_t n, int64_t depth, void* out) { amx::i8_kernels.input(x, n, depth, out); }
