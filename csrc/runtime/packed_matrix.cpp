#include "runtime/packed_matrix.h"

#include "ops/cpu/convert.h"
#include "runtime/parallel.h"

namespace fastdecode {

PackedMatrix::PackedMatrix(Element element, int64_t outputs, int64_t inputs)
    : element_(element), inputs_(inputs), depth_(round_up(inputs, kDepth)), panels_((outputs + kPanel - 1) / kPanel), data_(panels_ * kPanel * depth_ * bytes_of(element)) {}

int64_t PackedMatrix::index(int64_t column, int64_t k) const {
  const int64_t step = 4 / bytes_of(element_);  // depth indices that lie side by side
  return (column / kPanel * depth_ + k / step * step) * kPanel + column % kPanel * step + k % step;
}

void PackedMatrix::pack(const void* rows, int dtype, int64_t count, Place place) {
  parallel_for(count, kPanel, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t column = place.column(i);
      for (int64_t k = 0; k < inputs_; ++k) {
        const float w = fastdecode::element(rows, dtype, i * inputs_ + k);
        if (element_ == Element::f32)
          data_.at<float>()[index(column, k)] = w;
        else
          data_.at<uint16_t>()[index(column, k)] = bf16_of_float(w);
      }
    }
  });
}

void PackedMatrix::set_bias(const void* bias, int dtype, int64_t count, Place place) {
  bias_.resize(panels_ * kPanel);
  for (int64_t i = 0; i < count; ++i) bias_[place.column(i)] = fastdecode::element(bias, dtype, i);
}

void PackedMatrix::unpack(int64_t column, float scale, float* out) const {
  for (int64_t k = 0; k < inputs_; ++k)
    out[k] = scale * (element_ == Element::f32 ? data_.at<float>()[index(column, k)] : float_of_bf16(data_.at<uint16_t>()[index(column, k)]));
}

}  // namespace fastdecode
