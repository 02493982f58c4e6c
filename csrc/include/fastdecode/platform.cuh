// What device code may use. Under nvcc (and NVRTC) the names map to CUDA; with FASTDECODE_SIM to the host shim in csrc/sim, which runs
// the same sources on fibres and checks barriers, shared memory and races.
#pragma once

#include "fastdecode/philox.cuh"

#if defined(FASTDECODE_SIM)

#include "sim/device.h"

#define FD_KERNEL extern "C" void
#define FD_DEVICE static inline
// Arrays in shared memory: `name` is indexed like an array and passed on as SharedPtr<T>.
#define FD_SHARED(T, name, count)       \
  static const char name##_site = 0;    \
  const ::fastdecode::sim::Shared<T> name = ::fastdecode::sim::shared<T>(&name##_site, #name, count)

namespace fastdecode {

template <class T>
using SharedPtr = sim::Shared<T>;

using sim::atomic_add;
using sim::atomic_or;
using sim::block_index;
using sim::block_size;
using sim::block_sync;
using sim::grid_size;
using sim::thread_index;
using sim::warp_ballot;
using sim::warp_shuffle_xor;
using sim::warp_sync;

}  // namespace fastdecode

#else

#define FD_KERNEL extern "C" __global__ void
#define FD_DEVICE __device__ static inline
#define FD_SHARED(T, name, count) __shared__ T name[count]

namespace fastdecode {

template <class T>
using SharedPtr = T*;

// One-dimensional grids and blocks; blocks are whole warps.
__device__ static inline int thread_index() { return int(threadIdx.x); }
__device__ static inline int block_size() { return int(blockDim.x); }
__device__ static inline int64_t block_index() { return int64_t(blockIdx.x); }
__device__ static inline int64_t grid_size() { return int64_t(gridDim.x); }
__device__ static inline void block_sync() { __syncthreads(); }
__device__ static inline void warp_sync() { __syncwarp(); }
__device__ static inline uint32_t warp_ballot(bool vote) { return __ballot_sync(0xFFFFFFFFu, vote); }

// Atomics between the threads of a block, on shared arrays and on words of global memory; no order, no result.
__device__ static inline void atomic_add(uint64_t* array, int index, uint64_t value) { atomicAdd(reinterpret_cast<unsigned long long*>(array + index), (unsigned long long)value); }
__device__ static inline void atomic_add(uint32_t* word, uint32_t value) { atomicAdd(word, value); }
__device__ static inline void atomic_or(uint32_t* word, uint32_t bits) { atomicOr(word, bits); }

// The value of the lane whose number differs in the bits of `mask`; any type made of 32-bit words.
template <class T>
__device__ static inline T warp_shuffle_xor(const T& value, int mask) {
  static_assert(sizeof(T) % 4 == 0, "values travel as 32-bit words");
  union Words {
    T value;
    uint32_t word[sizeof(T) / 4];
    __device__ Words() {}
  } in, out;
  in.value = value;
  for (int i = 0; i < int(sizeof(T) / 4); ++i) out.word[i] = __shfl_xor_sync(0xFFFFFFFFu, in.word[i], mask);
  return out.value;
}

}  // namespace fastdecode

#endif

namespace fastdecode {

// Of a number above 0.
FD_HD static inline int leading_zeros(uint32_t x) {
#if defined(__CUDA_ARCH__)
  return __clz(int(x));
#elif defined(__GNUC__)
  return __builtin_clz(x);
#else
  int zeros = 0;
  for (; !(x >> 31); x <<= 1) ++zeros;
  return zeros;
#endif
}

FD_HD static inline int count_ones(uint64_t x) {
#if defined(__CUDA_ARCH__)
  return __popcll((long long)x);
#else
  int ones = 0;
  for (; x; x &= x - 1) ++ones;
  return ones;
#endif
}

}  // namespace fastdecode
