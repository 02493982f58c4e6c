#include "runtime/team.h"

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <utility>

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

using Clock = std::chrono::steady_clock;

// How many members the next teams get.
class TeamSize {
 public:
  int next(int most) {
    if (most == 1 || rest_.load(std::memory_order_relaxed) <= 0) return most;
    rest_.fetch_sub(1, std::memory_order_relaxed);
    return most - 1;
  }
  void learn(int size, int most, double slept, double elapsed) {
    if (size < most || elapsed < kShortest) return;
    if (slept < kShare * size * elapsed) {
      lost_.store(0, std::memory_order_relaxed);
      pause_.store(kFirstPause, std::memory_order_relaxed);
    } else if (lost_.fetch_add(1, std::memory_order_relaxed) + 1 >= kLost) {
      lost_.store(kLost - 1, std::memory_order_relaxed);  // one bad step after the pause is enough for the next
      const int pause = pause_.load(std::memory_order_relaxed);
      rest_.store(pause, std::memory_order_relaxed);
      pause_.store(std::min(2 * pause, kLongestPause), std::memory_order_relaxed);
    }
  }

 private:
  static constexpr double kShortest = 2e-4, kShare = 0.15;  // seconds of a step that says something; share of its time slept
  static constexpr int kLost = 3, kFirstPause = 16, kLongestPause = 64;  // steps
  std::atomic<int> lost_{0}, rest_{0}, pause_{kFirstPause};
};

TeamSize team_size;

inline void relax() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

}  // namespace

Items Team::take(int member, int64_t n) {
  const uint32_t phase = places_[member].phase.load(std::memory_order_relaxed);
  for (int i = 0; i < size_; ++i) {
    const int owner = (member + i) % size_;
    const Items all = share(owner, n);
    std::atomic<uint64_t>& counts = places_[owner].counts[phase % 2];
    uint64_t before = counts.load(std::memory_order_relaxed);
    while (true) {
      const Items left{all.begin + int64_t(before & 0xFFFFFFFF), all.end - int64_t(before >> 32)};
      if (!left) break;
      const int64_t count = (3 * (left.end - left.begin) + 3) / 4;
      if (!counts.compare_exchange_weak(before, before + (i == 0 ? count : count << 32), std::memory_order_relaxed)) continue;
      return i == 0 ? Items{left.begin, left.begin + count} : Items{left.end - count, left.end};
    }
  }
  return {0, 0};
}

void Team::sync(int member) {
  Place& own = places_[member];
  const uint32_t phase = own.phase.load(std::memory_order_relaxed);
  own.counts[(phase + 1) % 2].store(0, std::memory_order_relaxed);  // last used in the phase before this one, which all have left
  own.phase.store(phase + 1, std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) != 0) {
    { std::lock_guard<std::mutex> lock(mutex_); }
    wake_.notify_all();
  }
  for (int i = 1; i < size_; ++i) wait(places_[(member + i) % size_], phase);
}

void Team::wait(const Place& other, uint32_t phase) {
  for (int i = 0; i < kSpins; ++i) {
    if (other.phase.load(std::memory_order_acquire) != phase) return;
    relax();
  }
  const auto start = Clock::now();
  std::unique_lock<std::mutex> lock(mutex_);
  sleepers_.fetch_add(1, std::memory_order_seq_cst);
  wake_.wait(lock, [&] { return other.phase.load(std::memory_order_seq_cst) != phase; });
  sleepers_.fetch_sub(1, std::memory_order_relaxed);
  slept_.fetch_add((Clock::now() - start).count(), std::memory_order_relaxed);
}

namespace {

// The members that really came, and how long they slept.
std::pair<int, double> run_members(int wanted, void (*work)(void*, Team&, int), void* context) {
#if defined(__SANITIZE_THREAD__)
  // The thread sanitizer cannot see what OpenMP's library synchronises: under it the members are threads of our own.
  Team team(wanted);
  std::vector<std::thread> others;
  for (int member = 1; member < wanted; ++member) others.emplace_back(work, context, std::ref(team), member);
  work(context, team, 0);
  for (std::thread& other : others) other.join();
  return {wanted, team.slept()};
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
  const std::pair<int, double> result{team->size(), team->slept()};
  team->~Team();
  return result;
#endif
}

}  // namespace

void run_team(void (*work)(void*, Team&, int), void* context) {
  const int most = omp_in_parallel() ? 1 : num_threads(), wanted = team_size.next(most);
  if (wanted == 1) {
    Team alone(1);
    return work(context, alone, 0);
  }
  const auto start = Clock::now();
  const auto [size, slept] = run_members(wanted, work, context);
  team_size.learn(size, most, slept, std::chrono::duration<double>(Clock::now() - start).count());
}

}  // namespace fastdecode
