#include "runtime/packed_matrix.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "ops/cpu/convert.h"
#include "runtime/parallel.h"

namespace fastdecode {

PackedMatrix::PackedMatrix(Element element, int64_t outputs, int64_t inputs)
    : element_(element), inputs_(inputs), depth_(round_up(inputs, kDepth)), panels_((outputs + kPanel - 1) / kPanel), data_(Memory::lasting(size_t(panels_ * panel_bytes(element, depth_)))) {
  if (element == Element::i8)
    for (int64_t p = 0; p < panels_; ++p) std::fill_n(panel<uint8_t>(p * kPanel), kPanel * depth_, uint8_t(128));  // zero weights
}

template <class T>
T* PackedMatrix::panel(int64_t column) const {
  return reinterpret_cast<T*>(data_.at(column / kPanel * panel_bytes(element_, depth_)));
}

int64_t PackedMatrix::index(int64_t column, int64_t k) const {
  const int64_t step = 4 / bytes_of(element_);  // depth indices that lie side by side
  return k / step * step * kPanel + column % kPanel * step + k % step;
}

float* PackedMatrix::scale(int64_t column) const { return reinterpret_cast<float*>(panel<char>(column) + kPanel * depth_) + column % kPanel; }

void PackedMatrix::pack_row(const void* row, int dtype, int64_t column) {
  float inverse = 0;
  if (element_ == Element::i8) {
    float most = 0;
    for (int64_t k = 0; k < inputs_; ++k) {
      const float a = std::fabs(fastdecode::element(row, dtype, k));
      most = a > most || a != a ? a : most;
    }
    *scale(column) = most / 127;  // not finite if a weight is not: it spoils the column, as it would in floats
    inverse = most > 0 && most <= 3e38f ? 127 / most : 0;
  }
  for (int64_t k = 0; k < inputs_; ++k) {
    const float w = fastdecode::element(row, dtype, k);
    if (element_ == Element::f32)
      panel<float>(column)[index(column, k)] = w;
    else if (element_ == Element::bf16)
      panel<uint16_t>(column)[index(column, k)] = bf16_of_float(w);
    else
      panel<uint8_t>(column)[index(column, k)] = uint8_t(128 + (inverse ? std::lrintf(w * inverse) : 0));
  }
}

void PackedMatrix::check_place(const Place& place, int64_t count) const {
  const int64_t columns = panels_ * kPanel;  // nothing is larger, so that no column overflows
  const bool sizes = place.first >= 0 && place.first <= columns && place.block > 0 && place.block <= place.period && place.period <= columns && count >= 0 && count <= columns;
  if (!sizes || (count > 0 && place.column(count - 1) >= columns))
    throw std::invalid_argument(std::to_string(count) + " rows in blocks of " + std::to_string(place.block) + " every " + std::to_string(place.period) + " columns from " + std::to_string(place.first) + " on do not fit into the " + std::to_string(columns) + " of the packed matrix");
}

void PackedMatrix::pack(const void* rows, int dtype, int64_t count, Place place) {
  check_place(place, count);
  const int64_t row_bytes = inputs_ * fastdecode::bytes_of(dtype);
  parallel_for(count, kPanel, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) pack_row(static_cast<const char*>(rows) + i * row_bytes, dtype, place.column(i));
  });
}

void PackedMatrix::set_bias(const void* bias, int dtype, int64_t count, Place place) {
  check_place(place, count);
  bias_.resize(panels_ * kPanel);
  for (int64_t i = 0; i < count; ++i) bias_[place.column(i)] = fastdecode::element(bias, dtype, i);
}

void PackedMatrix::unpack(int64_t column, float scale, float* out) const {
  for (int64_t k = 0; k < inputs_; ++k) {
    const int64_t i = index(column, k);
    switch (element_) {
      case Element::f32: out[k] = scale * panel<float>(column)[i]; break;
      case Element::bf16: out[k] = scale * float_of_bf16(panel<uint16_t>(column)[i]); break;
      case Element::i8: out[k] = scale * *this->scale(column) * float(panel<uint8_t>(column)[i] - 128); break;
    }
  }
}

}  // namespace fastdecode
