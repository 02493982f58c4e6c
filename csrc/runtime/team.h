// The threads of one transformer step: a single parallel region, inside it phases that end at a barrier.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace fastdecode {

// The members share out the items of a phase one by one, so a member that loses its core holds up only its current item; at
// the barrier they spin briefly and then sleep, so that another process gets the core.
class Team {
 public:
  explicit Team(int size) : size_(size) {}
  int size() const { return size_; }

  // Next unclaimed item of the phase.
  int64_t take() { return next_.fetch_add(1, std::memory_order_relaxed); }

  // Ends a phase: returns when every member is here; `take` starts again from 0.
  void sync();

  // Seconds that members have slept at barriers, all together.
  double slept() const { return double(slept_.load(std::memory_order_relaxed)) * 1e-9; }

 private:
  void wait(uint32_t phase);

  const int size_;
  alignas(64) std::atomic<int64_t> next_{0};
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> phase_{0};
  std::atomic<int> sleepers_{0};
  std::atomic<int64_t> slept_{0};  // nanoseconds
  std::mutex mutex_;
  std::condition_variable wake_;
};

// Calls work(context, team, member) on the threads of the process's OpenMP team and returns when all are done. While another
// process holds a core, a step waits for whole time slices of the scheduler at its barriers: then a smaller team is faster, and
// the next steps get one. Results never depend on the size of the team.
void run_team(void (*work)(void* context, Team& team, int member), void* context);

// The same for a callable; only for baseline objects (templates must not appear in objects of one instruction set).
template <class F>
void run_team(F& f) {
  run_team([](void* c, Team& team, int member) { (*static_cast<F*>(c))(team, member); }, &f);
}

}  // namespace fastdecode
