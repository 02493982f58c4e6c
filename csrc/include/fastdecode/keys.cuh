// How the verification operations turn one key per row into independent streams.
#pragma once

#include "fastdecode/philox.cuh"

namespace fastdecode {

// Stream of one node (or of one position of a chain): word 2 moves by the node, so callers leave its low 32 bits free.
FD_HD static inline Stream node_stream(const int64_t* key, int64_t node) {
  const int64_t moved[4] = {key[0], key[1], int64_t(uint64_t(key[2]) + uint64_t(node)), key[3]};
  return make_stream(moved);
}

// The same with the purpose replaced.
FD_HD static inline Stream node_stream(const int64_t* key, int64_t node, Purpose purpose) {
  const int64_t moved[4] = {key[0], key[1], int64_t(uint64_t(key[2]) + uint64_t(node)), purpose};
  return make_stream(moved);
}

// Coin `draw` of a node.
FD_HD static inline double node_coin(const int64_t* key, int64_t node, uint32_t draw) {
  return stream_uniform(node_stream(key, node, kAccept), draw);
}

}  // namespace fastdecode
