// A stack of its own and the switches to and from it, announced to AddressSanitizer.
#pragma once

#include <sys/mman.h>
#include <ucontext.h>

#include <cstddef>
#include <functional>
#include <stdexcept>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace fastdecode {
namespace sim {

class Fibre {
 public:
  Fibre() {
    // The lowest page stays inaccessible: an overflow faults instead of running into a neighbour.
    memory_ = static_cast<char*>(mmap(nullptr, kBytes + kGuard, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (memory_ == MAP_FAILED || mprotect(memory_, kGuard, PROT_NONE) != 0) throw std::runtime_error("no memory for the stack of a simulated thread");
  }
  ~Fibre() { munmap(memory_, kBytes + kGuard); }
  Fibre(const Fibre&) = delete;

  void start(std::function<void()> body) {
    body_ = std::move(body);
    getcontext(&own_);
    own_.uc_stack.ss_sp = memory_ + kGuard;
    own_.uc_stack.ss_size = kBytes;
    own_.uc_link = nullptr;
    const auto address = reinterpret_cast<uintptr_t>(this);
    makecontext(&own_, reinterpret_cast<void (*)()>(&Fibre::entry), 2, unsigned(address), unsigned(uint64_t(address) >> 32));
    fake_stack_ = nullptr;
  }

  // Runs the fibre until it leaves.
  void enter() {
#if defined(__SANITIZE_ADDRESS__)
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, memory_ + kGuard, kBytes);
    swapcontext(&outside_, &own_);
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#else
    swapcontext(&outside_, &own_);
#endif
  }

  // Back to the scheduler; `last`: the fibre will not run again.
  void leave(bool last = false) {
    (void)last;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(last ? nullptr : &fake_stack_, outside_stack_, outside_bytes_);
    swapcontext(&own_, &outside_);
    __sanitizer_finish_switch_fiber(fake_stack_, &outside_stack_, &outside_bytes_);
#else
    swapcontext(&own_, &outside_);
#endif
  }

 private:
  static constexpr size_t kBytes = 256 << 10, kGuard = 4096;

  static void entry(unsigned low, unsigned high) {
    auto* self = reinterpret_cast<Fibre*>(uintptr_t(low) | uintptr_t(uint64_t(high) << 32));
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &self->outside_stack_, &self->outside_bytes_);
#endif
    self->body_();
    self->leave(true);
  }

  char* memory_;
  ucontext_t own_, outside_;
  std::function<void()> body_;
  void* fake_stack_ = nullptr;
  const void* outside_stack_ = nullptr;
  size_t outside_bytes_ = 0;
};

}  // namespace sim
}  // namespace fastdecode
