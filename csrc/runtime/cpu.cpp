#include "runtime/cpu.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace fastdecode {
namespace {

struct Features {
  bool avx2 = false, avx512 = false, avx512_bf16 = false, avx512_vnni = false, amx_tile = false, amx_bf16 = false, amx_int8 = false;
};

#if defined(__x86_64__)
uint64_t enabled_states() {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t(high) << 32 | low;
}

// The kernel hands out the 8 KB tile state on request only; a refusal means AMX must not be used.
bool request_amx_permission() {
#if defined(__linux__)
  constexpr long kArchReqXcompPerm = 0x1023, kXfeatureTileData = 18;
  return syscall(SYS_arch_prctl, kArchReqXcompPerm, kXfeatureTileData) == 0;
#else
  return false;
#endif
}

Features detect() {
  Features f;
  uint32_t a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return f;
  const bool osxsave = c >> 27 & 1, fma = c >> 12 & 1, f16c = c >> 29 & 1;
  if (!osxsave || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return f;
  const uint64_t states = enabled_states();
  const bool ymm = (states & 0x6) == 0x6, zmm = (states & 0xE6) == 0xE6, tiles = (states & 0x60000) == 0x60000;
  f.avx2 = ymm && fma && f16c && (b >> 5 & 1);
  f.avx512 = f.avx2 && zmm && (b >> 16 & 1) && (b >> 17 & 1) && (b >> 30 & 1) && (b >> 31 & 1);  // F, DQ, BW, VL
  f.avx512_vnni = f.avx512 && (c >> 11 & 1);
  const bool tile_bits = d >> 24 & 1, bf16_bits = d >> 22 & 1, int8_bits = d >> 25 & 1;
  if (__get_cpuid_count(7, 1, &a, &b, &c, &d)) f.avx512_bf16 = f.avx512 && (a >> 5 & 1);
  f.amx_tile = f.avx512_bf16 && tiles && tile_bits && request_amx_permission();
  f.amx_bf16 = f.amx_tile && bf16_bits;
  f.amx_int8 = f.amx_tile && int8_bits;
#if defined(FD_AMX_EMULATED)
  f.amx_tile = f.amx_bf16 = f.amx_int8 = f.avx512_bf16;  // see amx_tiles.h
#endif
  return f;
}
#else
Features detect() { return {}; }
#endif

const Features& features() {
  static const Features f = detect();
  return f;
}

Isa best() {
  const Features& f = features();
  return f.amx_bf16 ? Isa::amx : f.avx512 ? Isa::avx512 : f.avx2 ? Isa::avx2 : Isa::scalar;
}

Isa parse(const std::string& name) {
  if (name.empty() || name == "auto") return best();
  for (Isa level : {Isa::scalar, Isa::avx2, Isa::avx512, Isa::amx}) {
    if (name != isa_name(level)) continue;
    if (level > best())
      throw std::invalid_argument("instruction set '" + name + "' is not available on this machine; the best one is '" + isa_name(best()) + "'");
    return level;
  }
  throw std::invalid_argument("instruction set '" + name + "' is unknown: use auto, scalar, avx2, avx512 or amx");
}

std::atomic<Isa>& current() {
  static std::atomic<Isa> level{[] {
    const char* forced = std::getenv("FASTDECODE_CPU");
    return parse(forced ? forced : "auto");
  }()};
  return level;
}

}  // namespace

const char* isa_name(Isa level) {
  static const char* const names[] = {"scalar", "avx2", "avx512", "amx"};
  return names[int(level)];
}

Isa isa() { return current().load(std::memory_order_relaxed); }
bool has_avx512_bf16() { return isa() >= Isa::avx512 && features().avx512_bf16 && features().avx512_vnni; }
void set_isa(const std::string& name) { current().store(parse(name), std::memory_order_relaxed); }

std::vector<std::pair<std::string, bool>> cpu_features() {
  const Features& f = features();
  return {{"avx2", f.avx2},           {"avx512", f.avx512},     {"avx512_bf16", f.avx512_bf16}, {"avx512_vnni", f.avx512_vnni},
          {"amx_tile", f.amx_tile},   {"amx_bf16", f.amx_bf16}, {"amx_int8", f.amx_int8}};
}

}  // namespace fastdecode
