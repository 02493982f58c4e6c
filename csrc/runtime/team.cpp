#include "runtime/team.h"

#include <omp.h>

#include <algorithm>
#include <chrono>

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

// How many members the next teams get: fewer while passes lose much of their time to members that wait for a core.
class TeamSize {
 public:
  int next(int most) const {
    const int left_out = std::min(left_out_.load(std::memory_order_relaxed), most - 1);
    const bool retries = left_out > 0 && seconds() >= retry_.load(std::memory_order_relaxed);
    return most - left_out + retries;
  }

  // What a pass of `size` members took, and what they had to do without of that time, all together.
  void learn(int size, int most, double lost, double elapsed) {
    const int left_out = left_out_.load(std::memory_order_relaxed);
    const bool retried = most - size < left_out;
    if (elapsed < kShortest || lost < kShare * size * elapsed) {
      bad_.store(0, std::memory_order_relaxed);
      if (left_out > 0 && !retried) return;
      left_out_.store(most - size, std::memory_order_relaxed);
      pause_.store(kFirstPause, std::memory_order_relaxed);
    } else if (retried || bad_.fetch_add(1, std::memory_order_relaxed) + 1 >= kBad) {
      bad_.store(kBad - 1, std::memory_order_relaxed);  // one bad pass after the pause is enough for the next
      if (!retried) left_out_.store(most - size + 1, std::memory_order_relaxed);
      const int pause = pause_.load(std::memory_order_relaxed);
      retry_.store(seconds() + std::min(pause * elapsed, kLongest), std::memory_order_relaxed);
      pause_.store(std::min(2 * pause, kLastPause), std::memory_order_relaxed);
    }
  }

 private:
  static double seconds() { return std::chrono::duration<double>(Clock::now().time_since_epoch()).count(); }

  static constexpr double kShortest = 1e-3;  // seconds of a pass that a scheduler may have held up: its time slices are longer
  static constexpr double kShare = 0.15, kLongest = 1;  // of a pass that is lost; seconds of a pause
  static constexpr int kBad = 3, kFirstPause = 16, kLastPause = 64;  // passes in a row; pauses, in times of the last bad pass
  std::atomic<int> left_out_{0}, bad_{0}, pause_{kFirstPause};
  std::atomic<double> retry_{0};  // when a team may grow by one member again
};

TeamSize team_size;

inline void relax() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

}  // namespace

Items Team::take(int member, int64_t n) {
  const uint32_t phase = places_[member].phase;
  for (int stride = 0; stride < size_; stride = stride ? 2 * stride : 1) {  // the member's own share first
    const int owner = (member + stride) % size_;
    const Items all = share(owner, n);
    std::atomic<uint64_t>& counts = places_[owner].counts[phase % 2];
    uint64_t before = counts.load(std::memory_order_relaxed);
    while (true) {
      const Items left{all.begin + int64_t(before & 0xFFFFFFFF), all.end - int64_t(before >> 32)};
      if (!left) break;
      const int64_t count = (3 * (left.end - left.begin) + 3) / 4;
      if (!counts.compare_exchange_weak(before, before + (stride == 0 ? count : count << 32), std::memory_order_relaxed)) continue;
      return stride == 0 ? Items{left.begin, left.begin + count} : Items{left.end - count, left.end};
    }
  }
  return {0, 0};
}

// In ever longer strides around the table (a dissemination barrier): after log2(size) meetings a member knows of all others.
void Team::sync(int member) {
  Place& own = places_[member];
  own.counts[++own.phase % 2].store(0, std::memory_order_relaxed);  // last used in the phase before this one, which all have left
  for (int stride = 1; stride < size_; stride *= 2) meet(member, (member + size_ - stride) % size_);
}

// Arrives at the member's next meeting, and waits until the other one has arrived at its own.
void Team::meet(int member, int other) {
  const uint32_t meeting = places_[member].meetings.load(std::memory_order_relaxed) + 1;
  places_[member].meetings.store(meeting, std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) != 0) {
    { std::lock_guard<std::mutex> lock(mutex_); }
    wake_.notify_all();
  }
  const std::atomic<uint32_t>& awaited = places_[other].meetings;
  for (int i = 0; i < kSpins; ++i) {
    if (awaited.load(std::memory_order_acquire) >= meeting) return;
    relax();
  }
  const auto start = Clock::now();
  std::unique_lock<std::mutex> lock(mutex_);
  sleepers_.fetch_add(1, std::memory_order_seq_cst);
  wake_.wait(lock, [&] { return awaited.load(std::memory_order_seq_cst) >= meeting; });
  sleepers_.fetch_sub(1, std::memory_order_relaxed);
  slept_.fetch_add((Clock::now() - start).count(), std::memory_order_relaxed);
}

namespace {

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// The time that the members did without, all together: before they started, while they slept, and behind their end.
double run_members(int wanted, void (*work)(void*, Team&, int), void* context) {
  const auto start = Clock::now();
  std::atomic<double> active{0};
  const auto member = [&](Team& team, int index) {
    const auto own = Clock::now();
    work(context, team, index);
    const double seconds = seconds_since(own);
    for (double sum = active.load(); !active.compare_exchange_weak(sum, sum + seconds);) {
    }
  };
#if defined(__SANITIZE_THREAD__)
  // The thread sanitizer cannot see what OpenMP's library synchronises: under it the members are threads of our own.
  Team team(wanted);
  std::vector<std::thread> others;
  for (int index = 1; index < wanted; ++index) others.emplace_back(member, std::ref(team), index);
  member(team, 0);
  for (std::thread& other : others) other.join();
  return wanted * seconds_since(start) - active + team.slept();
#else
  // The barrier must know how many threads really came, which OpenMP decides: the first one through the door builds the team.
  alignas(Team) unsigned char storage[sizeof(Team)];
  Team* team = nullptr;
#pragma omp parallel num_threads(wanted)
  {
#pragma omp single
    team = new (storage) Team(omp_get_num_threads());
    member(*team, omp_get_thread_num());
  }
  const double lost = team->size() * seconds_since(start) - active + team->slept();
  team->~Team();
  return lost;
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
  const double lost = run_members(wanted, work, context);
  team_size.learn(wanted, most, lost, seconds_since(start));
}

}  // namespace fastdecode
