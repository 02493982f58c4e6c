#include "runtime/parallel.h"

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif

namespace fastdecode {
namespace {

int affinity_count() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1, omp_get_num_procs());
}

// CPUs granted by the cgroup (v2, then v1), rounded up; a large number when unlimited.
int cgroup_quota() {
  double quota = -1, period = -1;
  if (std::FILE* f = std::fopen("/sys/fs/cgroup/cpu.max", "r")) {
    if (std::fscanf(f, "%lf %lf", &quota, &period) != 2) quota = -1;
    std::fclose(f);
  } else {
    if (std::FILE* q = std::fopen("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "r")) {
      if (std::fscanf(q, "%lf", &quota) != 1) quota = -1;
      std::fclose(q);
    }
    if (std::FILE* p = std::fopen("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "r")) {
      if (std::fscanf(p, "%lf", &period) != 1) period = -1;
      std::fclose(p);
    }
  }
  return quota > 0 && period > 0 ? std::max(1, int(std::ceil(quota / period))) : 1 << 20;
}

int default_threads() {
  if (const char* forced = std::getenv("FASTDECODE_NUM_THREADS")) return std::max(1, std::atoi(forced));
  return std::min(affinity_count(), cgroup_quota());
}

std::atomic<int>& threads() {
  static std::atomic<int> n{default_threads()};
  return n;
}

// An OpenMP team does not survive fork(): a child that entered a parallel region would wait for threads it does not have.
std::atomic<bool> forked{false};
#if defined(__linux__)
const int fork_handler = pthread_atfork(nullptr, nullptr, [] { forked = true; });
#endif

}  // namespace

int num_threads() { return forked ? 1 : threads().load(); }
void set_num_threads(int n) { threads() = n > 0 ? n : default_threads(); }

void parallel_for(int64_t n, int64_t grain, Body body, const void* context) {
  grain = std::max<int64_t>(1, grain);
  const int64_t chunks = (n + grain - 1) / grain;
  const int team = int(std::min<int64_t>(num_threads(), chunks));
#if defined(__SANITIZE_THREAD__)
  const bool alone = true;  // the thread sanitizer cannot see what OpenMP's library synchronises
#else
  const bool alone = team <= 1 || omp_in_parallel();
#endif
  if (alone) {
    if (n > 0) body(context, 0, n, 0);
    return;
  }
  std::atomic<int64_t> next{0};
#pragma omp parallel num_threads(team)
  {
    const int thread = omp_get_thread_num();
    for (int64_t c; (c = next.fetch_add(1, std::memory_order_relaxed)) < chunks;) body(context, c * grain, std::min(n, (c + 1) * grain), thread);
  }
}

}  // namespace fastdecode
