// The threads of one transformer step: a single parallel region, inside it phases that end at a barrier.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <vector>

namespace fastdecode {

struct Items {
  int64_t begin, end;
  explicit operator bool() const { return begin < end; }
};

// Every member has its share of the items of a phase, and helps others (the next one, that two away, four, ...) when it is through
// with it: so a member that is slow, or loses its core, holds up little. At the barrier they spin briefly and then sleep, so that
// another process gets the core.
class Team {
 public:
  explicit Team(int size) : size_(size), places_(size) {}
  int size() const { return size_; }

  // The share of a member of n items.
  Items share(int member, int64_t n) const { return {n * member / size_, n * (member + 1) / size_}; }

  // Unclaimed items of the phase, none when all are claimed: three quarters of what is left of the member's own share, from the
  // front, or of another's, from the back.
  Items take(int member, int64_t n);

  // Ends a phase for this member: returns when every other one is here; the items of the next phase are unclaimed.
  void sync(int member);

  // Seconds that members have slept at barriers, all together.
  double slept() const { return double(slept_.load(std::memory_order_relaxed)) * 1e-9; }

 private:
  // What others see of a member, in a line of its own: phases often last less than a line takes from core to core.
  struct alignas(64) Place {
    std::atomic<uint32_t> meetings{0};     // at which the member has arrived
    std::atomic<uint64_t> counts[2] = {};  // claimed of its share, in even and in odd phases: from the front, and 2^32 times from the back
    uint32_t phase = 0;                    // of the member; nobody else looks
  };
  void meet(int member, int other);

  const int size_;
  std::vector<Place> places_;
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
