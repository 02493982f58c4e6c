// The list of operations and of the implementations compiled for each; only for baseline objects.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "runtime/cpu.h"

namespace fastdecode {

// Operation name -> implementations in ascending order of instruction set, e.g. {"scalar", "avx2", "avx512"}.
inline std::map<std::string, std::vector<Isa>>& registry() {
  static std::map<std::string, std::vector<Isa>> ops;
  return ops;
}

// One kernel compiled for several instruction sets. A null entry means: the next lower level serves.
template <class Fn>
class Kernel {
 public:
  Kernel(const char* name, Fn scalar, Fn avx2 = nullptr, Fn avx512 = nullptr, Fn amx = nullptr) : table_{scalar, avx2, avx512, amx} {
    for (int level = 0; level < 4; ++level)
      if (table_[level]) registry()[name].push_back(Isa(level));
  }
  // The best implementation at or below the level in use.
  Fn get() const {
    int level = int(isa());
    while (!table_[level]) --level;
    return table_[level];
  }

 private:
  Fn table_[4];
};

// Names the implementations of other instruction sets on x86-64 and null elsewhere, where their files are not compiled.
#if defined(__x86_64__)
#define FD_X86(fn) fn
#else
#define FD_X86(fn) nullptr
#endif

}  // namespace fastdecode
