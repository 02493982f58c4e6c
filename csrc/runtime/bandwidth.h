#pragma once

#include <cstdint>

namespace fastdecode {

// Reads a buffer once on all threads and returns the seconds that took: the floor of a step that streams as many bytes.
double read_seconds(const uint64_t* data, int64_t words);

}  // namespace fastdecode
