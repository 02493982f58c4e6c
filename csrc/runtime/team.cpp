#include "runtime/team.h"

#include <omp.h>

#include "runtime/parallel.h"

#if defined(__SANITIZE_THREAD__)
#include <functional>
#include <thread>
#include <vector>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fastdecode {
namespace {

constexpr int kSpins = 4000;  // some tens of microseconds: longer than the members of a phase normally differ

inline void relax() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

}  // namespace

void Team::sync() {
  if (size_ == 1) {
    next_.store(0, std::memory_order_relaxed);
    return;
  }
  const uint32_t phase = phase_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 < size_) return wait(phase);
  arrived_.store(0, std::memory_order_relaxed);
  next_.store(0, std::memory_order_relaxed);
  phase_.store(phase + 1, std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) == 0) return;
  { std::lock_guard<std::mutex> lock(mutex_); }
  wake_.notify_all();
}

void Team::wait(uint32_t phase) {
  for (int i = 0; i < kSpins; ++i) {
    if (phase_.load(std::memory_order_acquire) != phase) return;
    relax();
  }
  std::unique_lock<std::mutex> lock(mutex_);
  sleepers_.fetch_add(1, std::memory_order_seq_cst);
  wake_.wait(lock, [&] { return phase_.load(std::memory_order_seq_cst) != phase; });
  sleepers_.fetch_sub(1, std::memory_order_relaxed);
}

void run_team(void (*work)(void*, Team&, int), void* context) {
  const int wanted = omp_in_parallel() ? 1 : num_threads();
  if (wanted == 1) {
    Team alone(1);
    return work(context, alone, 0);
  }
#if defined(__SANITIZE_THREAD__)
  // The thread sanitizer cannot see what OpenMP's library synchronises: under it the members are threads of our own.
  Team team(wanted);
  std::vector<std::thread> others;
  for (int member = 1; member < wanted; ++member) others.emplace_back(work, context, std::ref(team), member);
  work(context, team, 0);
  for (std::thread& other : others) other.join();
#else
  // The barrier must know how many threads really came, which OpenMP decides: the first one through the door builds the team.
  alignas(Team) unsigned char storage[sizeof(Team)];
  Team* team = nullptr;
#pragma omp parallel num_threads(wanted)
  {
#pragma omp single
    team = new (storage) Team(omp_get_num_threads());
    work(context, *team, omp_get_thread_num());
  }
  team->~Team();
#endif
}

}  // namespace fastdecode
