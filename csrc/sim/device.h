// The device interface of platform.cuh on the host: the threads of a block are fibres of one OS thread, blocks run one after the
// other in seeded order. Violations end the launch with std::runtime_error:
//   - a barrier or a warp operation that not all threads reach, or that they reach at different places;
//   - shared memory read before it was written, outside its array, or without a barrier between conflicting accesses.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>

namespace fastdecode {
namespace sim {

void set_seed(uint64_t seed);  // orders of blocks and threads
void run(const char* kernel, int64_t grid, int block, const std::function<void()>& body);

int thread_index();
int block_size();
int64_t block_index();
int64_t grid_size();

// `file` and `line` name the place of the call in messages; threads must agree on it.
void block_sync(const char* file = __builtin_FILE(), int line = __builtin_LINE());
void warp_sync(const char* file = __builtin_FILE(), int line = __builtin_LINE());
uint32_t warp_ballot(bool vote, const char* file = __builtin_FILE(), int line = __builtin_LINE());

// Hands 16 bytes to the warp and waits for the others; returns where lane `source` left its own.
const void* warp_exchange(const void* value, size_t bytes, int source, const char* file, int line);

template <class T>
T warp_shuffle_xor(const T& value, int mask, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  static_assert(sizeof(T) % 4 == 0 && sizeof(T) <= 64, "values travel as 32-bit words");
  T result;
  std::memcpy(static_cast<void*>(&result), warp_exchange(&value, sizeof(T), (thread_index() % 32) ^ mask, file, line), sizeof(T));
  return result;
}

// Storage of one shared array for the running block, poisoned when the block starts.
struct SharedStorage;
SharedStorage* shared_storage(const void* site, const char* name, size_t count, size_t bytes);
void* shared_access(SharedStorage* storage, int64_t index, bool write);
void* shared_atomic(SharedStorage* storage, int64_t index);

template <class T>
class Shared {
 public:
  class Element {
   public:
    Element(SharedStorage* storage, int64_t index) : storage_(storage), index_(index) {}
    operator T() const { return *static_cast<T*>(shared_access(storage_, index_, false)); }
    const Element& operator=(const T& value) const {
      *static_cast<T*>(shared_access(storage_, index_, true)) = value;
      return *this;
    }
    const Element& operator=(const Element& other) const { return *this = T(other); }

   private:
    SharedStorage* storage_;
    int64_t index_;
  };
  Shared(SharedStorage* storage) : storage_(storage) {}
  Element operator[](int64_t index) const { return Element(storage_, index); }
  T& atomic(int64_t index) const { return *static_cast<T*>(shared_atomic(storage_, index)); }

 private:
  SharedStorage* storage_;
};

template <class T>
Shared<T> shared(const void* site, const char* name, size_t count) {
  static_assert(std::is_trivially_copyable<T>::value, "shared memory holds plain data");
  return Shared<T>(shared_storage(site, name, count, sizeof(T)));
}

// Threads run one at a time: what makes an access atomic is only that other atomics may come without a barrier.
template <class T>
void atomic_add(const Shared<T>& array, int64_t index, T value) {
  array.atomic(index) += value;
}
inline void atomic_add(uint32_t* word, uint32_t value) { *word += value; }
inline void atomic_or(uint32_t* word, uint32_t bits) { *word |= bits; }

}  // namespace sim
}  // namespace fastdecode
