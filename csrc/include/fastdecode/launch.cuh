// The only place that launches kernels.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "fastdecode/platform.cuh"

namespace fastdecode {

constexpr int kWarp = 32;

#if defined(FASTDECODE_SIM)

template <class Kernel, class... Args>
void launch(const char* name, Kernel kernel, int64_t grid, int block, void*, const Args&... args) {
  if (grid > 0) sim::run(name, grid, block, [&] { kernel(args...); });
}

#else

// Queues grid x block threads on a stream. An empty grid is no launch. Throws std::runtime_error with CUDA's text.
template <class Kernel, class... Args>
void launch(const char* name, Kernel kernel, int64_t grid, int block, void* stream, const Args&... args) {
  if (grid <= 0) return;
  if (grid > 0x7FFFFFFF) throw std::runtime_error(std::string(name) + " needs " + std::to_string(grid) + " blocks, more than 2^31 - 1; split the batch");
  kernel<<<dim3(unsigned(grid)), dim3(unsigned(block)), 0, static_cast<cudaStream_t>(stream)>>>(args...);
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) throw std::runtime_error(std::string(name) + " could not be launched: " + cudaGetErrorString(error));
}

#endif

// Threads for one row of `columns` entries: short rows take one warp, long ones a block that hides memory latency.
inline int row_threads(int64_t columns) { return columns <= 2048 ? kWarp : columns <= 16384 ? 256 : 512; }

}  // namespace fastdecode
