// A weight matrix in the order in which a step streams it: panels of 16 output columns (see PanelGemm).
#pragma once

#include <vector>

#include "runtime/memory.h"
#include "runtime/step_kernels.h"

namespace fastdecode {

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

class PackedMatrix {
 public:
  PackedMatrix() = default;
  // `outputs` columns (padded to panels) over `inputs` depth indices (padded to kDepth), all zero.
  PackedMatrix(Element element, int64_t outputs, int64_t inputs);

  // Where row i of a checkpoint matrix goes. Matrices alternate in blocks of rows: those of one take `block` columns from `first` on,
  // and again every `period` columns.
  struct Place {
    int64_t first, block, period;
    int64_t column(int64_t i) const { return first + i / block * period + i % block; }
  };
  // Copies rows of length inputs() from a row-major checkpoint matrix of a dtype of dtype.h. As int8 each row has its own scale,
  // its largest absolute weight / 127.
  void pack(const void* rows, int dtype, int64_t count, Place place);
  void set_bias(const void* bias, int dtype, int64_t count, Place place);

  void unpack(int64_t column, float scale, float* out) const;  // [inputs]

  Element element() const { return element_; }
  int64_t inputs() const { return inputs_; }
  int64_t depth() const { return depth_; }
  int64_t panels() const { return panels_; }
  const void* data() const { return data_.at(); }
  const float* bias() const { return bias_.empty() ? nullptr : bias_.data(); }
  size_t bytes() const { return data_.size() + bias_.size() * sizeof(float); }

 private:
  template <class T>
  T* panel(int64_t column) const;                    // of 16 columns; [column, k] is element index(column, k) of it
  int64_t index(int64_t column, int64_t k) const;
  float* scale(int64_t column) const;                // int8 only
  void check_place(const Place& place, int64_t count) const;
  void pack_row(const void* row, int dtype, int64_t column);

  Element element_ = Element::f32;
  int64_t inputs_ = 0, depth_ = 0, panels_ = 0;
  Memory data_;
  std::vector<float> bias_;
};

}  // namespace fastdecode
