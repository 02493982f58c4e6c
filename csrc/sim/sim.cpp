#include <algorithm>
#include <exception>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>

#include "sim/device.h"
#include "sim/fibre.h"
#include "sim/shared_memory.h"

namespace fastdecode {
namespace sim {
namespace {

enum class State { ready, at_barrier, at_warp_sync, at_exchange, done };

struct Thread {
  Fibre fibre;
  State state;
  const char* file;
  int line;
  unsigned char left[64];   // what the thread hands to its warp
  unsigned char taken[64];  // what it left at the last exchange that is complete
};

struct Block {
  const char* kernel = nullptr;
  int64_t index = 0, grid = 0;
  int size = 0, current = -1;
  std::vector<std::unique_ptr<Thread>> threads;
  std::vector<uint64_t> warp_epochs;
  uint64_t epoch = 0;
  std::map<const void*, SharedStorage> shared;
  std::exception_ptr error;
};

uint64_t seed = 0;
thread_local Block block;

[[noreturn]] void fail(const std::string& what) {
  throw std::runtime_error(std::string("kernel ") + block.kernel + ", block " + std::to_string(block.index) + ": " + what);
}

Thread& self() {
  if (block.current < 0) throw std::logic_error("device code was called outside a kernel");
  return *block.threads[size_t(block.current)];
}

std::string place(const Thread& t) {
  const std::string file = t.file;
  return file.substr(file.find_last_of('/') + 1) + ":" + std::to_string(t.line);
}

std::string describe(State state) {
  return state == State::at_barrier ? "waits at block_sync" : state == State::at_warp_sync ? "waits at warp_sync" : state == State::at_exchange ? "waits at a shuffle or ballot" : "has ended";
}

void wait(State state, const char* file, int line) {
  Thread& t = self();
  t.state = state, t.file = file, t.line = line;
  t.fibre.leave();
}

// All threads of [begin, end) must wait for the same thing at the same place.
void require_together(int begin, int end) {
  const Thread& first = *block.threads[size_t(begin)];
  for (int i = begin + 1; i < end; ++i) {
    const Thread& t = *block.threads[size_t(i)];
    if (t.state == first.state && (t.state == State::done || (t.line == first.line && std::string(t.file) == first.file))) continue;
    const auto what = [](int n, const Thread& x) { return "thread " + std::to_string(n) + " " + describe(x.state) + (x.state == State::done ? "" : " (" + place(x) + ")"); };
    const bool missing = t.state == State::done || first.state == State::done;
    fail(std::string(missing ? "missing" : "divergent") + " synchronisation: " + what(begin, first) + ", " + what(i, t));
  }
}

// Lets a warp go on whose lanes all wait for each other.
bool release_warp(int warp) {
  const int begin = 32 * warp, end = begin + 32;
  bool waits = false;
  for (int i = begin; i < end; ++i) waits |= block.threads[size_t(i)]->state == State::at_warp_sync || block.threads[size_t(i)]->state == State::at_exchange;
  if (!waits) return false;
  require_together(begin, end);
  if (block.threads[size_t(begin)]->state == State::at_warp_sync) ++block.warp_epochs[size_t(warp)];
  for (int i = begin; i < end; ++i) {
    Thread& t = *block.threads[size_t(i)];
    std::memcpy(t.taken, t.left, sizeof t.left);
    t.state = State::ready;
  }
  return true;
}

// True while there is something left to run.
bool advance() {
  bool released = false;
  for (int warp = 0; warp < block.size / 32; ++warp) released |= release_warp(warp);
  if (released) return true;
  require_together(0, block.size);
  if (block.threads[0]->state == State::done) return false;
  ++block.epoch;
  for (int i = 0; i < block.size; ++i) block.threads[size_t(i)]->state = State::ready;
  return true;
}

void run_block(const std::function<void()>& body, std::mt19937_64& random) {
  block.shared.clear();
  block.epoch = 0;
  block.error = nullptr;
  block.warp_epochs.assign(size_t(block.size / 32), 0);
  while (int(block.threads.size()) < block.size) block.threads.push_back(std::make_unique<Thread>());
  for (int i = 0; i < block.size; ++i) {
    Thread& t = *block.threads[size_t(i)];
    t.state = State::ready;
    t.fibre.start([&body, &t] {
      try {
        body();
      } catch (...) {
        block.error = std::current_exception();
      }
      t.state = State::done;
    });
  }
  std::vector<int> order(size_t(block.size), 0);
  std::iota(order.begin(), order.end(), 0);
  do {
    std::shuffle(order.begin(), order.end(), random);
    for (int i : order) {
      if (block.threads[size_t(i)]->state != State::ready) continue;
      block.current = i;
      block.threads[size_t(i)]->fibre.enter();
      block.current = -1;
      if (block.error) std::rethrow_exception(block.error);
    }
  } while (advance());
}

// Whether an earlier access is separated from the running thread's by a barrier.
bool ordered(const Access& before) {
  const int me = block.current;
  if (before.atomic) return before.block_epoch < block.epoch;
  return before.thread < 0 || before.thread == me || before.block_epoch < block.epoch ||
         (before.thread / 32 == me / 32 && before.warp_epoch < block.warp_epochs[size_t(me / 32)]);
}

void require_ordered(const Access& before, const char* earlier, const char* now, const SharedStorage& s, int64_t index) {
  if (ordered(before)) return;
  fail(std::string("race on shared memory: thread ") + std::to_string(block.current) + " " + now + " " + s.name + "[" + std::to_string(index) + "], which thread " +
       std::to_string(before.thread) + " " + earlier + " without a barrier in between");
}

// The shadow of an element, which must exist and, unless it is to be written, hold something.
Shadow& shadow_of(SharedStorage* s, int64_t index, bool write) {
  if (index < 0 || index >= int64_t(s->shadow.size()))
    fail("thread " + std::to_string(block.current) + " accesses " + s->name + "[" + std::to_string(index) + "], which has " + std::to_string(s->shadow.size()) + " elements (out of bounds)");
  Shadow& shadow = s->shadow[size_t(index)];
  if (!write && shadow.write.thread < 0)
    fail("thread " + std::to_string(block.current) + " reads " + s->name + "[" + std::to_string(index) + "], which this block has not written");
  return shadow;
}

}  // namespace

void set_seed(uint64_t value) { seed = value; }

void run(const char* kernel, int64_t grid, int size, const std::function<void()>& body) {
  if (size <= 0 || size > 1024 || size % 32) throw std::runtime_error(std::string("kernel ") + kernel + ": block of " + std::to_string(size) + " threads; use whole warps, at most 1024 threads");
  block.kernel = kernel, block.grid = grid, block.size = size;
  std::mt19937_64 random(seed);
  std::vector<int64_t> order(size_t(grid), 0);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), random);
  for (int64_t b : order) {
    block.index = b;
    run_block(body, random);
  }
}

int thread_index() { self(); return block.current; }
int block_size() { return block.size; }
int64_t block_index() { return block.index; }
int64_t grid_size() { return block.grid; }
void block_sync(const char* file, int line) { wait(State::at_barrier, file, line); }
void warp_sync(const char* file, int line) { wait(State::at_warp_sync, file, line); }

const void* warp_exchange(const void* value, size_t bytes, int source, const char* file, int line) {
  std::memcpy(self().left, value, bytes);
  wait(State::at_exchange, file, line);
  return block.threads[size_t(block.current / 32 * 32 + source)]->taken;
}

uint32_t warp_ballot(bool vote, const char* file, int line) {
  warp_exchange(&vote, 1, 0, file, line);
  uint32_t bits = 0;
  for (int lane = 0; lane < 32; ++lane) bits |= uint32_t(block.threads[size_t(block.current / 32 * 32 + lane)]->taken[0] != 0) << lane;
  return bits;
}

SharedStorage* shared_storage(const void* site, const char* name, size_t count, size_t bytes) {
  self();
  SharedStorage& s = block.shared[site];
  if (s.data.empty()) s = {name, bytes, std::vector<char>(count * bytes, char(0xCD)), std::vector<Shadow>(count)};
  return &s;
}

void* shared_access(SharedStorage* s, int64_t index, bool write) {
  Shadow& shadow = shadow_of(s, index, write);
  const Access now{block.current, block.epoch, block.warp_epochs[size_t(block.current / 32)]};
  require_ordered(shadow.write, "wrote", write ? "writes" : "reads", *s, index);
  if (write) {
    for (const Access& read : shadow.reads) require_ordered(read, "read", "writes", *s, index);
    shadow.reads.clear();
    shadow.write = now;
  } else {
    // Reads before the last barrier cannot conflict any more.
    if (!shadow.reads.empty() && shadow.reads[0].block_epoch < block.epoch) shadow.reads.clear();
    bool known = false;
    for (Access& read : shadow.reads)
      if (read.thread == now.thread) read = now, known = true;
    if (!known) shadow.reads.push_back(now);
  }
  return s->data.data() + size_t(index) * s->bytes;
}

void* shared_atomic(SharedStorage* s, int64_t index) {
  Shadow& shadow = shadow_of(s, index, false);
  if (!shadow.write.atomic) require_ordered(shadow.write, "wrote", "changes", *s, index);
  for (const Access& read : shadow.reads) require_ordered(read, "read", "changes", *s, index);
  shadow.reads.clear();
  // A plain write of this epoch stays on record: the atomics of other threads conflict with it.
  if (shadow.write.atomic || shadow.write.block_epoch < block.epoch) shadow.write = Access{block.current, block.epoch, 0, true};
  return s->data.data() + size_t(index) * s->bytes;
}

}  // namespace sim
}  // namespace fastdecode
