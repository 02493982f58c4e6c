// The arithmetic of a transformer step, one table of functions per instruction set.
//
// Every result depends on its own row alone, bit for bit: sums run in one fixed order however many rows, panels or threads
// there are, and entries that are masked out add an exact zero.
#pragma once

#include <cstdint>

#include "runtime/weight_stream.h"

namespace fastdecode {

constexpr int64_t kPanel = 16;  // columns of packed weights (or keys) that lie side by side
constexpr int64_t kDepth = 64;  // the inner dimension is padded to a multiple of this,
constexpr int64_t kKeyDepth = 32;  // and that of keys, which are never bytes, to one of this

constexpr int64_t kStripPanels = 4, kStrip = kStripPanels * kPanel;  // columns whose sums are finished together

// Bytes by which the products ask for weights before they need them, into the second level of the cache: it can wait for more
// lines at once than the first.
constexpr int64_t kAhead = 8192;

// The rows of a tile are addressed as four at a time from one pointer; left alone, compilers keep one pointer per row and run
// out of registers.
template <class P>
__attribute__((always_inline)) inline P own_register(P pointer) {
  asm("" : "+r"(pointer));
  return pointer;
}

enum class Element { f32 = 0, bf16 = 1, i8 = 2 };  // of weights; f32 and bf16 also of keys, values and the inputs of products

inline int64_t bytes_of(Element element) { return element == Element::f32 ? 4 : element == Element::bf16 ? 2 : 1; }

// One input row of a product with int8 weights: round(x / scale) = 128 high + low, -2^14 < . < 2^14, so that nearly 15 bits of
// every activation reach the product. Behind the high and low bytes ([depth] each) lie the scale and the sums of the bytes.
struct ByteRowEnd {
  float scale;
  int32_t high_sum, low_sum;  // times 128, as weights are stored with 128 added
};

// Bytes of one input row and of one packed panel.
inline int64_t input_bytes(Element element, int64_t depth) { return element == Element::i8 ? 2 * depth + 64 : bytes_of(element) * depth; }
inline int64_t panel_bytes(Element element, int64_t depth) { return kPanel * depth * bytes_of(element) + (element == Element::i8 ? kPanel * 4 : 0); }

enum class Epilogue { store, add, silu, gelu };

// rows x depth inputs times panels of 16 columns. A panel holds [depth / s][16][s] elements, s = 1 for f32, 2 for bf16 and 4
// for i8, so that one vector meets s depth indices of 16 columns. int8 weights are stored with 128 added; the scales of their
// 16 columns end the panel.
struct PanelGemm {
  const void* a;
  int64_t lda;        // bytes between input rows
  const void* w;
  int64_t rows, depth, panel_begin, panel_end;
  Epilogue epilogue;
  float* out;         // store, add: [rows, ldo], column 16 * panel on
  int64_t ldo;
  const float* bias;  // per column, or null
  void* gated;        // silu, gelu: panels 2i and 2i + 1 are gate and up of the columns 16i on of [rows, ld_gated], f32 for i8
  int64_t ld_gated;
  WeightStream* stream;  // of the weights, for kernels that ask for what comes next; or null
  bool once;             // the next pass finds nothing of these weights in the caches, so they need not be kept there
};

// out[r, :] += sum over j in [begin, end) of p[r, j] * v[slot j, :], step by step (see StepKernels) from `begin` on. Behind `end`
// p is readable up to the end of the step, and finite where there are no slots.
struct WeightedValues {
  const void* p;                  // as softmax leaves them
  int64_t ldp;                    // bytes
  const void* v;
  const int32_t* slots;           // of the keys; null: j itself
  int64_t dim, rows, begin, end;  // dim: row length of v, a multiple of 16
  float* out;
  int64_t ldo;
};

struct StepKernels {
  Element element;
  void (*gemm)(const PanelGemm&);
  void (*norm)(const float* x, const float* weight, int64_t n, int64_t depth, float epsilon, void* out);  // RMS norm to an input row
  void (*input)(const float* x, int64_t n, int64_t depth, void* out);                                     // x as an input row
  void (*norm_f32)(const float* x, const float* weight, int64_t n, float epsilon, float* out);    // may be in place
  void (*norm_add)(const float* x, const float* weight, int64_t n, float epsilon, float* sum);    // sum += norm(x)
  void (*rotate)(float* x, const float* cosine, const float* sine, int64_t half);                 // halves of x as (re, im)
  void (*convert)(const float* x, int64_t n, float scale, void* out);                             // scale * x to elements
  float (*softmax)(float* s, int64_t begin, int64_t low, int64_t high, int64_t end, float* sum);  // see the body
  int64_t weight_bytes;  // of what softmax leaves: floats, or bfloat16
  void (*weigh)(const WeightedValues&);
  int64_t key_step;  // keys, from a multiple of it on, whose weighted values are added up before they are added to the rest
  void (*merge)(float* parts, int64_t stride, int64_t count, int64_t dim, void* out);       // see the body
};

// The best table for the machine and the level in use.
const StepKernels& step_kernels(Element element);

#define FD_STEP_KERNELS(ns) \
  namespace ns {            \
  extern const StepKernels f32_kernels, bf16_kernels, i8_kernels; \
  }
FD_STEP_KERNELS(scalar)
FD_STEP_KERNELS(avx2)
FD_STEP_KERNELS(avx512)
FD_STEP_KERNELS(avx512bf16)
FD_STEP_KERNELS(amx)
#undef FD_STEP_KERNELS

}  // namespace fastdecode
