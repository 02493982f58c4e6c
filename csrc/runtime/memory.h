// Zeroed memory that starts on a cache line. Large blocks come straight from the system: their pages cost nothing until they
// are touched, and they may be huge. Blocks that last as long as a model share huge pages, however small they are: reading them
// misses the translation cache less often.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

namespace fastdecode {

class Memory {
 public:
  Memory() = default;
  explicit Memory(size_t bytes);  // throws std::bad_alloc
  // A block that lives as long as the others made this way beside it: what it occupies comes back when all of them are gone.
  static Memory lasting(size_t bytes);
  Memory(Memory&& other) noexcept { *this = std::move(other); }
  Memory& operator=(Memory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(slab_, other.slab_);
    return *this;
  }
  ~Memory();

  // At least this many bytes from now on; the contents are lost when it has to grow.
  void reserve(size_t bytes) {
    if (bytes > bytes_) *this = Memory(bytes);
  }
  size_t size() const { return bytes_; }
  template <class T = char>
  T* at(int64_t index = 0) const {
    return static_cast<T*>(data_) + index;
  }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
  std::shared_ptr<void> slab_;  // that the block is a part of
};

}  // namespace fastdecode
