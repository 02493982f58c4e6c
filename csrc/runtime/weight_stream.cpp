#include "runtime/weight_stream.h"

#include <algorithm>

namespace fastdecode {

void WeightStream::clear() {
  shares_.clear();
  share_ = asking_ = 0;
  asked_ = used_ = turns_ = 0;
}

void WeightStream::add(const void* data, int64_t bytes) {
  const int64_t before = shares_.empty() ? 0 : shares_.back().before + shares_.back().bytes;
  shares_.push_back({static_cast<const char*>(data), bytes, before});
}

bool WeightStream::next_chunk() {
  while (asking_ < shares_.size() && asked_ >= shares_[asking_].before + shares_[asking_].bytes) ++asking_;
  if (asking_ == shares_.size()) return false;
  const Share& share = shares_[asking_];
  const int64_t begin = asked_ - share.before, size = std::min(kChunk, share.bytes - begin);
  turns_ = (size / 4 + kLine - 1) / kLine;
  quarter_ = turns_ * kLine;
  next_ = share.data + begin;
  asked_ += size;
  return true;
}

// What was read before it was asked for needs no asking any more.
void WeightStream::skip_to(int64_t position) {
  if (asked_ >= position) return;
  asked_ = position;
  turns_ = 0;
}

void WeightStream::begin_share() {
  used_ = shares_[share_].before;
  skip_to(used_ + kNear);
}

void WeightStream::end_share() {
  used_ = shares_[share_].before + shares_[share_].bytes;
  ++share_;
  skip_to(used_);
}

}  // namespace fastdecode
