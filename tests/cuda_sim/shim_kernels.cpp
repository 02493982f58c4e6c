// Kernels that break one rule each, and their correct versions, for the tests of the shim.
#include <pybind11/pybind11.h>

#include "fastdecode/block.cuh"
#include "fastdecode/launch.cuh"
#include "sim/device.h"

namespace py = pybind11;
using namespace fastdecode;

namespace {

// Neighbours exchange values through shared memory; without `barrier` they race.
void rotate(int32_t* out, bool barrier) {
  FD_SHARED(int32_t, values, 64);
  values[thread_index()] = thread_index();
  if (barrier) block_sync();
  out[thread_index()] = values[(thread_index() + 1) % block_size()];
}

void some_leave(int32_t* out) {
  if (thread_index() < 40) block_sync();
  out[thread_index()] = 1;
}

void two_barriers(int32_t* out) {
  if (thread_index() % 2) block_sync();
  else
    block_sync();
  out[thread_index()] = 1;
}

void half_a_shuffle(int32_t* out) {
  if (thread_index() % 32 < 16) out[thread_index()] = warp_shuffle_xor(int32_t(thread_index()), 1);
}

void beyond(int32_t* out) {
  FD_SHARED(int32_t, values, 63);
  values[thread_index()] = 1;
  out[thread_index()] = 1;
}

void unwritten(int32_t* out) {
  FD_SHARED(int32_t, values, 64);
  out[thread_index()] = values[thread_index()];
}

// The last thread to run wins: only another order shows it.
void last_one(int32_t* out) { out[0] = thread_index(); }

void warp_rotate(int32_t* out, bool sync) {
  FD_SHARED(int32_t, values, 64);
  values[thread_index()] = thread_index();
  if (sync) warp_sync();
  out[thread_index()] = values[thread_index() ^ 1];
}

void reductions(int32_t* out) {
  FD_SHARED(int32_t, scratch, 32);
  const int32_t total = block_reduce(int32_t(thread_index()), scratch, Add());
  const int32_t again = block_reduce(int32_t(1), scratch, Add());
  out[thread_index()] = total + again + int32_t(warp_ballot(thread_index() % 32 < 3));
}

// All threads count into four elements; without `barrier` some read while others still count.
void counts(int32_t* out, bool barrier) {
  FD_SHARED(uint64_t, values, 4);
  if (thread_index() < 4) values[thread_index()] = 0;
  block_sync();
  atomic_add(values, thread_index() % 4, uint64_t(thread_index()));
  if (barrier) block_sync();
  out[thread_index()] = int32_t(values[thread_index() % 4]);
}

// A plain write among the atomics of others.
void count_and_write(int32_t* out) {
  FD_SHARED(uint64_t, values, 1);
  if (thread_index() == 0) values[0] = 0;
  atomic_add(values, 0, uint64_t(1));
  out[thread_index()] = 1;
}

template <void (*kernel)(int32_t*)>
void plain(uintptr_t out) {
  launch("shim_test", kernel, 1, 64, nullptr, reinterpret_cast<int32_t*>(out));
}

template <void (*kernel)(int32_t*, bool)>
void switched(uintptr_t out, bool on) {
  launch("shim_test", kernel, 1, 64, nullptr, reinterpret_cast<int32_t*>(out), on);
}

}  // namespace

PYBIND11_MODULE(FASTDECODE_MODULE, m) {
  m.def("set_seed", &sim::set_seed);
  m.def("rotate", &switched<rotate>);
  m.def("warp_rotate", &switched<warp_rotate>);
  m.def("counts", &switched<counts>);
  m.def("count_and_write", &plain<count_and_write>);
  m.def("some_leave", &plain<some_leave>);
  m.def("two_barriers", &plain<two_barriers>);
  m.def("half_a_shuffle", &plain<half_a_shuffle>);
  m.def("beyond", &plain<beyond>);
  m.def("unwritten", &plain<unwritten>);
  m.def("last_one", &plain<last_one>);
  m.def("reductions", &plain<reductions>);
}
