#include "runtime/memory.h"

#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fastdecode {
namespace {

constexpr size_t kPage = 4096, kHugePage = size_t(1) << 21, kSlab = 32 * kHugePage;

size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

bool is_mapped(size_t bytes) {
#if defined(__linux__)
  return bytes >= kHugePage;
#else
  (void)bytes;
  return false;
#endif
}

// Starts on a huge page, so that the first ones can be huge too.
void* map(size_t bytes) {
#if defined(__linux__)
  void* reserved = mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (reserved == MAP_FAILED) return nullptr;
  char* begin = static_cast<char*>(reserved);
  const size_t before = -reinterpret_cast<uintptr_t>(begin) & (kHugePage - 1), pages = round_up(bytes, kPage);
  if (before) munmap(begin, before);
  if (before + pages < bytes + kHugePage) munmap(begin + before + pages, bytes + kHugePage - before - pages);
  madvise(begin + before, bytes, MADV_HUGEPAGE);
  return begin + before;
#else
  (void)bytes;
  return nullptr;
#endif
}

void* allocate(size_t bytes) {
  void* data = std::aligned_alloc(64, round_up(bytes, 64));
  if (data) std::memset(data, 0, bytes);
  return data;
}

}  // namespace

Memory::Memory(size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  data_ = is_mapped(bytes) ? map(bytes) : allocate(bytes);
  if (!data_) throw std::bad_alloc();
}

Memory Memory::lasting(size_t bytes) {
  struct Slab {
    Memory memory{kSlab};
    size_t used = 0;
  };
  static std::mutex mutex;
  static std::weak_ptr<Slab> current;  // alive as long as one of its blocks is
  if (bytes == 0 || bytes > kSlab / 2) return Memory(bytes);
  const std::lock_guard<std::mutex> lock(mutex);
  std::shared_ptr<Slab> slab = current.lock();
  if (!slab || slab->used + bytes > kSlab) current = slab = std::make_shared<Slab>();
  Memory block;
  block.data_ = slab->memory.at(int64_t(slab->used));
  block.bytes_ = bytes;
  slab->used += round_up(bytes, kPage);
  block.slab_ = std::move(slab);
  return block;
}

Memory::~Memory() {
  if (slab_) return;
#if defined(__linux__)
  if (data_ && is_mapped(bytes_)) {
    munmap(data_, bytes_);
    return;
  }
#endif
  std::free(data_);
}

}  // namespace fastdecode
