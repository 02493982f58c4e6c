// Keys and values of a batch of sequences, by slot. Keys lie in panels of 16 slots, so that scores are a product of queries
// with packed weights; values lie row by row.
#pragma once

#include <vector>

#include "runtime/packed_matrix.h"

namespace fastdecode {

struct CacheShape {
  Element element;
  int64_t layers, heads, dim;
  int64_t depth() const { return round_up(dim, kKeyDepth); }
};

class KvCache {
 public:
  KvCache(CacheShape shape, int64_t rows, int64_t capacity);

  int64_t rows() const { return int64_t(rows_.size()); }
  int64_t capacity(int64_t row) const { return rows_[row].capacity; }
  size_t bytes() const;

  // Room for `slots` slots in one row; capacity at least doubles, so that growth costs nothing on average.
  void reserve(int64_t row, int64_t slots);
  void copy_row(int64_t from, int64_t to, int64_t slots);
  // Moves slots first + path[i] to first + i, for i = 0 ... count - 1 (path ascends).
  void compact(int64_t row, int64_t first, const int32_t* path, int64_t count);

  char* keys(int64_t row, int64_t layer, int64_t head) { return rows_[row].keys.at<char>(start(row, layer, head) * shape_.depth() * bytes_of(shape_.element)); }
  char* values(int64_t row, int64_t layer, int64_t head) { return rows_[row].values.at<char>(start(row, layer, head) * shape_.dim * bytes_of(shape_.element)); }

  // Writes one key and one value, given as elements.
  void write(int64_t row, int64_t layer, int64_t head, int64_t slot, const void* key, const void* value);

 private:
  struct Row {
    int64_t capacity = 0;
    Memory keys, values;
  };
  Row make_row(int64_t capacity) const;
  int64_t start(int64_t row, int64_t layer, int64_t head) const { return (layer * shape_.heads + head) * rows_[row].capacity; }
  void move_slot(int64_t row, int64_t from, int64_t to);

  CacheShape shape_;
  std::vector<Row> rows_;
};

}  // namespace fastdecode
