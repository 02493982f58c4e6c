#include "runtime/weight_stream.h"

#include <algorithm>

namespace fastdecode {

void WeightStream::clear() {
  shares.clear();
  share = asking = 0;
  asked = used = turns = 0;
}

void WeightStream::add(const void* data, int64_t bytes) {
  const int64_t before = shares.empty() ? 0 : shares.back().before + shares.back().bytes;
  shares.push_back({static_cast<const char*>(data), bytes, before});
}

bool WeightStream::next_chunk() {
  while (asking < shares.size() && asked >= shares[asking].before + shares[asking].bytes) ++asking;
  if (asking == shares.size()) return false;
  const Share& s = shares[asking];
  const int64_t begin = asked - s.before, size = std::min(kChunk, s.bytes - begin);
  turns = (size / 4 + kLine - 1) / kLine;
  quarter = turns * kLine;
  next = s.data + begin;
  asked += size;
  return true;
}

// What was read before it was asked for needs no asking any more.
void WeightStream::skip_to(int64_t position) {
  if (asked >= position) return;
  asked = position;
  turns = 0;
}

void WeightStream::begin_share() {
  used = shares[share].before;
  skip_to(used + kNear);
}

void WeightStream::end_share() {
  used = shares[share].before + shares[share].bytes;
  ++share;
  skip_to(used);
}

}  // namespace fastdecode
