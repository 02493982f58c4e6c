#pragma once

#include <cstdint>

namespace fastdecode {

// Reads a buffer once on all threads and returns the seconds that took: the floor of a step that streams as many bytes.
// `once` does not keep what was read in the caches: which of the two is faster depends on the machine.
double read_seconds(const uint64_t* data, int64_t words, bool once);

}  // namespace fastdecode
