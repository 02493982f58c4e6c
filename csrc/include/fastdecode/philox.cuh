// Counter-based random numbers (Philox4x32-10, Salmon et al. 2011): the value depends on the key alone, never on thread
// order, batch composition or device. Every function is `static`: objects compiled for different instruction sets must not
// share one linker copy.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define FD_HD __host__ __device__
#else
#define FD_HD
#endif

namespace fastdecode {

// What the stream is for: the last word of a key. Values are part of the reproducibility promise; never renumber.
enum Purpose : int64_t { kTarget = 0, kDraft = 1, kAccept = 2, kResidual = 3 };  // 4 is used in Python

struct Words {
  uint32_t w[4];
};

FD_HD static inline Words philox4x32(Words counter, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t(0xD2511F53u) * counter.w[0];
    const uint64_t b = uint64_t(0xCD9E8D57u) * counter.w[2];
    counter = Words{{uint32_t(b >> 32) ^ counter.w[1] ^ key0, uint32_t(b), uint32_t(a >> 32) ^ counter.w[3] ^ key1, uint32_t(a)}};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

// A stream of 2^32 values, addressed by index; derived from the four 64-bit words of a key (seed, request, position, purpose).
struct Stream {
  uint32_t key0, key1, counter2, counter3;
};

FD_HD static inline Stream make_stream(const int64_t* key) {
  const Words a = philox4x32(Words{{uint32_t(key[1]), uint32_t(uint64_t(key[1]) >> 32), uint32_t(key[2]), uint32_t(uint64_t(key[2]) >> 32)}},
                             uint32_t(key[0]), uint32_t(uint64_t(key[0]) >> 32));
  const Words b = philox4x32(Words{{a.w[0], a.w[1], uint32_t(key[3]), uint32_t(uint64_t(key[3]) >> 32)}}, a.w[2], a.w[3]);
  return Stream{b.w[0], b.w[1], b.w[2], b.w[3]};
}

// Word `index` of a plane. Plane 0 holds the high, plane 1 the low 32 bits of a uniform number.
FD_HD static inline uint32_t stream_bits(const Stream& s, uint32_t index, uint32_t plane) {
  return philox4x32(Words{{index >> 2, plane, s.counter2, s.counter3}}, s.key0, s.key1).w[index & 3];
}

// Uniform in (0, 1) from 64 bits: full double precision near 0, at most 1 - 2^-53.
FD_HD static inline double uniform_from_bits(uint32_t high, uint32_t low) {
  const double v = double(high) * 0x1p-32 + (double(low) + 0.5) * 0x1p-64;
  return v < 1.0 - 0x1p-53 ? v : 1.0 - 0x1p-53;
}

FD_HD static inline double stream_uniform(const Stream& s, uint32_t index) {
  return uniform_from_bits(stream_bits(s, index, 0), stream_bits(s, index, 1));
}

}  // namespace fastdecode
