#include "runtime/memory.h"

#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fastdecode {
namespace {

constexpr size_t kLine = 64, kHugePage = size_t(1) << 21;

bool is_mapped(size_t bytes) {
#if defined(__linux__)
  return bytes >= kHugePage;
#else
  (void)bytes;
  return false;
#endif
}

void* map(size_t bytes) {
#if defined(__linux__)
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) return nullptr;
  madvise(data, bytes, MADV_HUGEPAGE);
  return data;
#else
  (void)bytes;
  return nullptr;
#endif
}

void* allocate(size_t bytes) {
  void* data = std::aligned_alloc(kLine, (bytes + kLine - 1) / kLine * kLine);
  if (data) std::memset(data, 0, bytes);
  return data;
}

}  // namespace

Memory::Memory(size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  data_ = is_mapped(bytes) ? map(bytes) : allocate(bytes);
  if (!data_) throw std::bad_alloc();
}

Memory::~Memory() {
#if defined(__linux__)
  if (data_ && is_mapped(bytes_)) {
    munmap(data_, bytes_);
    return;
  }
#endif
  std::free(data_);
}

}  // namespace fastdecode
