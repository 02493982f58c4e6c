// Shared memory of the running block with a shadow of every element: who read and wrote it since when.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace fastdecode {
namespace sim {

// When a thread touched an element. Barriers advance the epoch of the block, warp_sync that of the warp.
struct Access {
  int thread = -1;
  uint64_t block_epoch = 0, warp_epoch = 0;
  bool atomic = false;  // stands for the atomics of all threads since the last barrier
};

struct Shadow {
  Access write;
  std::vector<Access> reads;  // since the last write
};

struct SharedStorage {
  std::string name;
  size_t bytes;  // of one element
  std::vector<char> data;
  std::vector<Shadow> shadow;
};

}  // namespace sim
}  // namespace fastdecode
