// The arithmetic of a transformer step, one table of functions per instruction set.
//
// Every result depends on its own row alone, bit for bit: sums run in one fixed order however many rows, panels or threads
// there are, and entries that are masked out add an exact zero.
#pragma once

#include <cstdint>

namespace fastdecode {

constexpr int64_t kPanel = 16;  // columns of packed weights (or keys) that lie side by side
constexpr int64_t kDepth = 32;  // the inner dimension is padded to a multiple of this

enum class Element { f32 = 0, bf16 = 1 };  // of weights, keys, values and of the activations that meet them

enum class Epilogue { store, add, silu, gelu };

// rows x depth activations times panels of 16 columns. A panel holds [depth / s][16][s] elements, s = 2 for bf16 and 1 for
// f32, so that one vector meets one (pair of) depth index of 16 columns.
struct PanelGemm {
  const void* a;
  int64_t lda;
  const void* w;
  int64_t rows, depth, panel_begin, panel_end;
  Epilogue epilogue;
  float* out;         // store, add: [rows, ldo], column 16 * panel on
  int64_t ldo;
  const float* bias;  // per column, or null
  void* gated;        // silu, gelu: panels 2i and 2i + 1 are gate and up of the columns 16i on of [rows, ld_gated]
  int64_t ld_gated;
};

// out[r, :] += sum over j in [begin, end), in that order, of p[r, j] * v[slot j, :].
struct WeightedValues {
  const float* p;
  int64_t ldp;
  const void* v;
  const int32_t* slots;           // of the keys; null: j itself
  int64_t dim, rows, begin, end;  // dim: row length of v and out, a multiple of 16
  float* out;
};

struct StepKernels {
  Element element;
  void (*gemm)(const PanelGemm&);
  void (*norm)(const float* x, const float* weight, int64_t n, float epsilon, void* out);         // RMS norm to elements
  void (*norm_f32)(const float* x, const float* weight, int64_t n, float epsilon, float* out);    // may be in place
  void (*norm_add)(const float* x, const float* weight, int64_t n, float epsilon, float* sum);    // sum += norm(x)
  void (*rotate)(float* x, const float* cosine, const float* sine, int64_t half);                 // halves of x as (re, im)
  void (*convert)(const float* x, int64_t n, float scale, void* out);                             // scale * x to elements
  float (*softmax)(float* s, int64_t begin, int64_t low, int64_t high, int64_t end, float* sum);  // see the body
  void (*weigh)(const WeightedValues&);
  void (*merge)(const float* parts, int64_t stride, int64_t count, int64_t dim, void* out);       // see the body
};

// The best table for the machine and the level in use.
const StepKernels& step_kernels(Element element);

#define FD_STEP_KERNELS(ns) \
  namespace ns {            \
  extern const StepKernels f32_kernels, bf16_kernels; \
  }
FD_STEP_KERNELS(scalar)
FD_STEP_KERNELS(avx2)
FD_STEP_KERNELS(avx512)
FD_STEP_KERNELS(avx512bf16)

}  // namespace fastdecode
