#include "runtime/kv_cache.h"

#include <algorithm>
#include <cstring>

namespace fastdecode {

// Keys are moved in words of 4 bytes: one float, or the pair of bfloat16 that lies together in a panel.
static uint32_t* key_words(char* keys, int64_t slot, int64_t words) {
  return reinterpret_cast<uint32_t*>(keys) + slot / kPanel * kPanel * words + slot % kPanel;
}

KvCache::KvCache(CacheShape shape, int64_t rows, int64_t capacity) : shape_(shape), rows_(rows) {
  for (Row& row : rows_) row = make_row(capacity);
}

KvCache::Row KvCache::make_row(int64_t capacity) const {
  Row row;
  row.capacity = round_up(std::max<int64_t>(capacity, 1), 64);
  const int64_t slots = shape_.layers * shape_.heads * row.capacity * bytes_of(shape_.element);
  row.keys = Memory(slots * shape_.depth());
  row.values = Memory(slots * shape_.dim);
  return row;
}

size_t KvCache::bytes() const {
  size_t sum = 0;
  for (const Row& row : rows_) sum += row.keys.size() + row.values.size();
  return sum;
}

static void copy_blocks(const Memory& from, int64_t from_stride, const Memory& to, int64_t to_stride, int64_t blocks, int64_t bytes) {
  for (int64_t i = 0; i < blocks; ++i) std::memcpy(to.at(i * to_stride), from.at(i * from_stride), size_t(bytes));
}

void KvCache::reserve(int64_t row, int64_t slots) {
  Row& old = rows_[row];
  if (slots <= old.capacity) return;
  Row grown = make_row(std::max(slots, 2 * old.capacity));
  const int64_t blocks = shape_.layers * shape_.heads, element = bytes_of(shape_.element), key = shape_.depth() * element, value = shape_.dim * element;
  copy_blocks(old.keys, old.capacity * key, grown.keys, grown.capacity * key, blocks, old.capacity * key);
  copy_blocks(old.values, old.capacity * value, grown.values, grown.capacity * value, blocks, old.capacity * value);
  old = std::move(grown);
}

void KvCache::copy_row(int64_t from, int64_t to, int64_t slots) {
  reserve(to, slots);
  const Row &a = rows_[from], &b = rows_[to];
  const int64_t blocks = shape_.layers * shape_.heads, element = bytes_of(shape_.element), key = shape_.depth() * element, value = shape_.dim * element;
  copy_blocks(a.keys, a.capacity * key, b.keys, b.capacity * key, blocks, round_up(slots, kPanel) * key);
  copy_blocks(a.values, a.capacity * value, b.values, b.capacity * value, blocks, slots * value);
}

void KvCache::move_slot(int64_t row, int64_t from, int64_t to) {
  const int64_t words = shape_.depth() * bytes_of(shape_.element) / 4, value = shape_.dim * bytes_of(shape_.element);
  for (int64_t layer = 0; layer < shape_.layers; ++layer) {
    for (int64_t head = 0; head < shape_.heads; ++head) {
      const uint32_t* source = key_words(keys(row, layer, head), from, words);
      uint32_t* target = key_words(keys(row, layer, head), to, words);
      for (int64_t k = 0; k < words; ++k) target[k * kPanel] = source[k * kPanel];
      std::memcpy(values(row, layer, head) + to * value, values(row, layer, head) + from * value, size_t(value));
    }
  }
}

void KvCache::compact(int64_t row, int64_t first, const int32_t* path, int64_t count) {
  for (int64_t i = 0; i < count; ++i)
    if (path[i] != i) move_slot(row, first + path[i], first + i);
}

void KvCache::write(int64_t row, int64_t layer, int64_t head, int64_t slot, const void* key, const void* value) {
  const int64_t used = shape_.dim * bytes_of(shape_.element), words = shape_.depth() * bytes_of(shape_.element) / 4;
  uint32_t* target = key_words(keys(row, layer, head), slot, words);
  for (int64_t k = 0; k < used / 4; ++k) std::memcpy(target + k * kPanel, static_cast<const char*>(key) + 4 * k, 4);
  std::memcpy(values(row, layer, head) + slot * used, value, size_t(used));
}

}  // namespace fastdecode
