// Parallel loop of the operations. It runs on the process's OpenMP team, which torch uses too: a second pool would fight
// torch's spinning workers for the same cores.
#pragma once

#include <cstdint>

namespace fastdecode {

int num_threads();
void set_num_threads(int n);  // 0: back to the default (affinity and cgroup quota)

// Calls body(context, begin, end, thread) for disjoint ranges that cover [0, n), in any order, thread < num_threads(). Ranges are
// `grain` items long, or everything at once on a single thread.
using Body = void (*)(const void* context, int64_t begin, int64_t end, int thread);
void parallel_for(int64_t n, int64_t grain, Body body, const void* context);

// The same for a callable; only for baseline objects (templates must not appear in objects of one instruction set).
template <class F>
void parallel_for(int64_t n, int64_t grain, const F& f) {
  parallel_for(n, grain, [](const void* c, int64_t begin, int64_t end, int thread) { (*static_cast<const F*>(c))(begin, end, thread); }, &f);
}

}  // namespace fastdecode
