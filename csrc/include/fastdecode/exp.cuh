// The exponential of everything that has to be equal in all implementations: the steps of exp() in ops/cpu/simd_avx2.h and
// ops/cpu/simd_avx512.h, one number at a time. Every function is `static`, see philox.cuh.
#pragma once

#include <cmath>
#include <cstdint>

#include "fastdecode/elements.cuh"

namespace fastdecode {

// exp() of anything below gives exactly 0: its value would be smaller than the smallest normal float.
static constexpr float kExpUnderflow = -87.33f;

// exp(r) = 1 + r + r^2 (1/2 + C3 r + ... + C6 r^4), weighted minimax fit on |r| <= ln(2) / 2, error below 4e-9.
static constexpr float kExpC3 = 0.166665181517601f, kExpC4 = 0.04166620597243309f, kExpC5 = 0.008368889801204205f, kExpC6 = 0.001395049155689776f;

// 2^r = 1 + C1 r + ... + C5 r^5, minimax fit on |r| <= 1/2, relative error below 1e-7.
static constexpr float kExp2C1 = 0.693147004f, kExp2C2 = 0.240222424f, kExp2C3 = 0.0555073358f, kExp2C4 = 0.00967151299f, kExp2C5 = 0.00132647261f;
// The same with three terms, relative error below 1.1e-4: for what is rounded to bfloat16 (0.2 %).
static constexpr float kExp2D1 = 0.693282902f, kExp2D2 = 0.242210969f, kExp2D3 = 0.0550089292f;
static constexpr float kLog2E = 1.44269504f;

// Of a <= 0, or NaN.
FD_HD static inline float exp_of(float a) {
  if (!(a >= kExpUnderflow)) return a != a ? a : 0;
  const float n = (a * 1.44269504f + 0x1.8p23f) - 0x1.8p23f;  // nearest integer, ties to even
  const float r = fmaf(n, -1.42860682e-6f, fmaf(n, -0.693145752f, a));
  float p = fmaf(kExpC6, r, kExpC5);
  p = fmaf(p, r, kExpC4);
  p = fmaf(p, r, kExpC3);
  p = fmaf(p, r, 0.5f);
  p = fmaf(r * r, p, r);
  return (p + 1.0f) * float_of_bits(uint32_t(int32_t(n) + 127) << 23);
}

}  // namespace fastdecode
